"""Meta-trains a learner on domains: what `metatext train`, recipes and the search share."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metatext.data.domains import Domain
from metatext.data.episode_sampler import EpisodeSampler, split_classes
from metatext.data.settings import EpisodeSettings
from metatext.errors import InputError
from metatext.learners.learner import Learner
from metatext.learners.settings import LearnerSettings
from metatext.learners.state import saved_settings
from metatext.training.run_folder import check_output
from metatext.training.settings import TrainConfig
from metatext.training.trainer import MetaTrainer

logger = logging.getLogger(__name__)


def train(
    domains: Sequence[Domain],
    encoder: str,
    settings: LearnerSettings,
    episodes: EpisodeSettings,
    config: TrainConfig,
    on_validation: Callable[[dict[str, float]], None] | None = None,
    target_texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Meta-trains a learner on `domains` and writes it to `config.output`.

    Args:
        domains: the sources.
        encoder: Hub id or folder of a pretrained encoder, or of a saved learner. A saved learner keeps its own settings
            where `settings` has the default.
        settings: the method.
        episodes: ways, shots, validation classes.
        config: the outer loop.
        on_validation: called after each validation (see `MetaTrainer`).
        target_texts: unlabelled target texts for adversarial training.

    Returns:
        The summary of `MetaTrainer.train`.

    Raises:
        InputError: options or sources that do not go together.
        FileExistsError: the output folder holds a run.
    """
    if config.output:
        check_output(Path(config.output), config)
        if Path(encoder).exists() and Path(encoder).resolve() == Path(config.output).resolve():
            raise InputError(f"{config.output} cannot be both the encoder and the output: name another output")
    shared = saved_settings(encoder).get("head", settings.head) == "linear"
    sampler, valid_sampler = make_samplers(domains, episodes, shared)
    defaults = dataclasses.asdict(LearnerSettings())
    changed = {name: value for name, value in dataclasses.asdict(settings).items() if value != defaults[name]}
    if changed.keys() & {"algorithm", "inner_optimizer"}:  # the saved order may contradict these
        changed["second_order_steps"] = settings.second_order_steps
    learner = Learner.from_pretrained(encoder, **changed | ({"classes": sampler.classes} if shared else {}))
    return MetaTrainer(learner, sampler, valid_sampler, config, on_validation, target_texts).train()


def make_samplers(
    domains: Sequence[Domain], episodes: EpisodeSettings, shared: bool
) -> tuple[EpisodeSampler, EpisodeSampler | None]:
    """The episodes for training, and those for validation (None if no validation is possible).

    With a prototype head, each episode draws new classes, and validation classes are held out of the sources. With a
    linear head (`shared`), all domains share their classes. Nothing is then held out, and the last weights are kept.
    """
    train_domains, valid_domains = list(domains), list[Domain]()
    if not shared:
        train_domains, valid_domains = split_classes(
            domains,
            2 if episodes.varied else episodes.ways,
            episodes.valid_fraction,
            episodes.seed,
            episodes.valid_classes,
        )
    for domain in train_domains:
        logger.info("%s: %d rows, %d classes to train on", domain.name, len(domain), len(domain.classes))
    held_out = sorted(set().union(*(domain.classes for domain in valid_domains)))
    if shared:
        why = "the learned head has them all"
    else:
        wanted = episodes.valid_fraction or episodes.valid_classes
        why = f"no source can spare enough beside --ways {episodes.ways}" if wanted else "as was asked"
    nothing = f"no class ({why}): the last weights are kept"
    logger.info("held out for validation: %s", ", ".join(held_out) or nothing)
    shape: dict[str, Any] = {"shots": episodes.shots, "queries": episodes.queries, "shared_labels": shared}
    how: dict[str, Any] = {name: getattr(episodes, name) for name in ("seed", "varied", "temperature", "hard")}
    sampler = EpisodeSampler(train_domains, None if shared else episodes.ways, **how, **shape)
    valid_sampler = None
    if valid_domains:
        ways = min(episodes.ways, *(len(domain.classes) for domain in valid_domains))
        valid_sampler = _valid_sampler(valid_domains, ways, episodes.seed + 1, shape)
    return sampler, valid_sampler


def _valid_sampler(domains: Sequence[Domain], ways: int, seed: int, shape: dict[str, Any]) -> EpisodeSampler | None:
    try:
        return EpisodeSampler(domains, ways, seed=seed, **shape)
    except InputError as error:
        logger.warning("no validation, the last weights are kept: %s", error)
        return None
