"""Hyper-parameter search over meta-training with Optuna. Trials are judged on held-out source classes.

    metatext search --source news.jsonl --encoder BAAI/bge-small-zh-v1.5 --output runs/search --trials 20

The study is in a database. The same command continues after an interruption, and several machines can share it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from metatext.data.domains import Domain
from metatext.data.fingerprints import describe_domains
from metatext.data.settings import EpisodeSettings
from metatext.data.user_files import read_domains
from metatext.errors import InputError
from metatext.files import write_json
from metatext.learners.learner import Learner
from metatext.learners.settings import LearnerSettings
from metatext.learners.state import saved_settings
from metatext.options import defaults_of
from metatext.search.search_space import (
    Range,
    SearchSpace,
    combination_in_words,
    combinations,
    configure,
    extremes,
    is_drawn,
    parse_space,
)
from metatext.search.settings import SearchSettings
from metatext.search.study_files import draw_importances, finished, write_best, write_trials
from metatext.training.job import Job
from metatext.training.meta_training import make_samplers, train
from metatext.training.settings import TrainConfig, check_method

try:
    import optuna
except ImportError as error:
    raise InputError("metatext search needs optuna, which is not installed: pip install 'metatext[search]'") from error


logger = logging.getLogger(__name__)
_DATABASE = "study.db"
_HEARTBEAT, _SILENCE = 60, 180  # seconds; a trial without a heartbeat for longer was killed
_NOT_COMPARED = ("output", "progress", "resume", "overwrite", "tracker", "save_every", "kept_graphs")


def search(job: Job, settings: SearchSettings) -> optuna.Study:
    """Runs trials until the study has enough of them, and writes its files to the output folder.

    A trial that diverges or runs out of memory counts as pruned. The values of trial k depend on the seed, on k, and on
    the results of earlier trials.

    Args:
        job: sources, encoder, and the options that are not searched.
        settings: space, number of trials, sampler, pruner, database.

    Returns:
        The Optuna study.

    Raises:
        InputError: no validation is possible; the space and the options contradict each other; the study or the output
            folder belongs to a search with other sources or options; the database cannot be opened.
        FileExistsError: the output folder holds something else.
    """
    output = _output_of(job)
    domains = read_domains(job.source, job.table)
    _check_validation(job, domains)
    space = _space_of(job, settings)
    asked = _asked(job, settings, space, domains)
    note = output / "search.json"
    if note.exists():
        _check_same(str(output), json.loads(note.read_text(encoding="utf-8")), asked)
    study = _open(settings, output, job.config.eval_every)
    _check_same(f"the study {settings.study!r}", study.user_attrs.get("asked", asked), asked)
    study.set_user_attr("asked", asked)
    write_json(note, asked)
    while True:
        write_trials(study, space, output / "trials.csv")
        write_best(study, job, output / "best.py")
        if len(finished(study)) >= settings.trials:
            break
        if settings.sampler == "grid" and not _queue_combination(study, space, job.episodes.seed):
            break
        study.optimize(lambda trial: _run(trial, job, domains, space, settings), 1, gc_after_trial=True)
    draw_importances(study, output / "importances.svg")
    return study


def _run(
    trial: optuna.Trial, job: Job, domains: Sequence[Domain], space: SearchSpace, settings: SearchSettings
) -> float:
    """Trains with the values that the trial draws, and returns its objective."""
    # Trial numbers are unique across machines and restarts, so no two trials draw from the same stream.
    trial.study.sampler = _sampler(settings.sampler, job.episodes.seed, trial.number)
    values: dict[str, Any] = {}
    for name, choices in space.items():
        if is_drawn(name, values):
            values[name] = _draw(trial, name, choices)
    logger.info("trial %d: %s", trial.number, combination_in_words(values))
    learner, config = configure(values, job.learner, dataclasses.replace(job.config, output=None))

    def on_validation(figures: Mapping[str, float]) -> None:
        trial.report(figures[f"valid_{settings.objective}"], int(figures["step"]))
        if figures["step"] < config.meta_steps and trial.should_prune():
            logger.info("trial %d is pruned at step %d", trial.number, figures["step"])
            raise optuna.TrialPruned

    try:
        summary = train(domains, job.encoder, learner, job.episodes, config, on_validation)
        if not math.isfinite(summary["best_loss"]):
            raise FloatingPointError("its validation loss is not finite")
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        logger.warning("trial %d is pruned: %s", trial.number, error)
        raise optuna.TrialPruned from error
    for name in ("best_accuracy", "best_loss"):
        trial.set_user_attr(name, summary[name])
    logger.info("trial %d: best validation accuracy %.4f", trial.number, summary["best_accuracy"])
    return float(summary[f"best_{settings.objective}"])


def _draw(trial: optuna.Trial, name: str, choices: Range | tuple[Any, ...]) -> Any:
    if not isinstance(choices, Range):
        return trial.suggest_categorical(name, choices)
    if isinstance(choices.low, int):
        return trial.suggest_int(name, choices.low, int(choices.high))
    return trial.suggest_float(name, choices.low, choices.high, log=True)


def _sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "tpe":
        # Multivariate TPE would sample before the trial has its number.
        return optuna.samplers.TPESampler(seed=own, multivariate=False)
    return optuna.samplers.RandomSampler(seed=own)


def _queue_combination(study: optuna.Study, space: SearchSpace, seed: int) -> bool:
    """Queues a combination of the grid that no trial on any machine has. Returns whether there was one."""
    _silently(optuna.storages.fail_stale_trials, study)
    trials = [t for t in study.get_trials(deepcopy=False) if t.state != optuna.trial.TrialState.FAIL]
    if any(trial.state == optuna.trial.TrialState.WAITING for trial in trials):
        return True
    taken = [trial.params for trial in trials]
    grid = combinations({name: values for name, values in space.items() if not isinstance(values, Range)})
    for number in np.random.default_rng(seed).permutation(len(grid)):
        if grid[number] not in taken:
            study.enqueue_trial(grid[number])
            return True
    return False


def _output_of(job: Job) -> Path:
    if PartialState().num_processes > 1:
        raise InputError(
            "a trial runs in one process: start metatext search without a launcher, once for each GPU or machine, "
            "with the same --storage"
        )
    if not job.config.output:
        raise InputError("name a folder for the search: --output runs/name")
    for name in ("resume", "overwrite", "tracker"):
        if getattr(job.config, name):
            raise InputError(f"--{name} is not for a search: repeat the command to go on, take a new --output to start")
    if job.unlabelled or job.config.adversarial:
        raise InputError("a search is judged on source classes, which adversarial training is not for: leave it out")
    output = Path(job.config.output)
    there = {path.name for path in output.iterdir()} if output.exists() else set()
    if there - {_DATABASE} and "search.json" not in there:
        raise FileExistsError(f"{output} already exists and holds no search: choose another output")
    return output


def _space_of(job: Job, settings: SearchSettings) -> SearchSpace:
    """The search space, checked against all other options. For a grid, ranges become values."""
    space = parse_space(settings.space)
    if saved_settings(job.encoder):
        raise InputError(f"{job.encoder} is a saved learner, but a search starts from a pretrained encoder")
    scopes = set()
    for values in extremes(space):
        try:
            learner, config = configure(values, job.learner, job.config)
            check_method(config, learner, config.mixed_precision)
            if learner.scope not in scopes:  # a scope may need an optional package
                Learner.from_pretrained(job.encoder, **dataclasses.asdict(learner))
                scopes.add(learner.scope)
        except InputError as error:
            raise InputError(f"--space allows {combination_in_words(values)}, but {error}") from error
    if settings.sampler != "grid":
        return space
    return {name: v.on_grid() if isinstance(v, Range) else v for name, v in space.items()}


def _check_validation(job: Job, domains: Sequence[Domain]) -> None:
    if make_samplers(domains, job.episodes, job.learner.head == "linear")[1] is None:
        raise InputError(
            "a search needs validation on held-out classes, and there is none: give --valid-fraction above 0, sources "
            "with two classes more than --ways and enough rows in each, and a prototype head"
        )


def _asked(job: Job, settings: SearchSettings, space: SearchSpace, domains: Sequence[Domain]) -> dict[str, Any]:
    """What identifies a search: space, objective, encoder, sources, and the options that are not searched."""
    options = {k: v for part in (job.learner, job.episodes, job.config) for k, v in dataclasses.asdict(part).items()}
    searched = {*space, *(("inner_steps", "second_order_steps") if "order" in space else ())}
    words = (f"{name}={v if isinstance(v, Range) else ','.join(map(str, v))}" for name, v in space.items())
    asked = {"space": " ".join(words), "objective": settings.objective}
    asked |= {"encoder": job.encoder, "sources": describe_domains(domains)}
    asked |= {name: value for name, value in options.items() if name not in {*_NOT_COMPARED, *searched}}
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _check_same(place: str, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    before = {**defaults_of(EpisodeSettings, LearnerSettings, TrainConfig), **before}  # a note may predate an option
    for name, value in asked.items():
        if before.get(name) != value:
            raise InputError(
                f"{place} is a search with {name}={before.get(name)}, not {value}: repeat its options, or "
                "name another --output (with --storage, another --study)"
            )


def _open(settings: SearchSettings, output: Path, eval_every: int) -> optuna.Study:
    """Opens the study in the database, or creates it."""
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # this module logs the results itself
    pruner: optuna.pruners.BasePruner = {
        "median": optuna.pruners.MedianPruner(),
        "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=eval_every),
        "none": optuna.pruners.NopPruner(),
    }[settings.pruner]
    output.mkdir(parents=True, exist_ok=True)
    url = settings.storage or f"sqlite:///{output.resolve() / _DATABASE}"
    patience = {"connect_args": {"timeout": _HEARTBEAT}} if url.startswith("sqlite") else {}
    try:
        storage = _silently(
            optuna.storages.RDBStorage, url, patience, heartbeat_interval=_HEARTBEAT, grace_period=_SILENCE
        )
        return optuna.create_study(
            storage=storage,
            pruner=pruner,
            study_name=settings.study,
            direction="maximize" if settings.objective == "accuracy" else "minimize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, RuntimeError) as error:
        what = "--storage" if settings.storage else str(output / _DATABASE)
        raise InputError(f"{what} cannot be opened: {str(error).splitlines()[0]}") from error


def _silently(function: Any, *values: Any, **options: Any) -> Any:
    """Calls a function that Optuna marks as experimental, without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return function(*values, **options)
