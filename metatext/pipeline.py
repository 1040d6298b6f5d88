"""The two jobs that the command line and the recipes share: meta-train on domains, evaluate on a target."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from metatext._version import __version__
from metatext.baselines import joint_training
from metatext.domains import Domain
from metatext.draws import Draw, make_draws, official_draws, unlabelled_texts
from metatext.errors import InputError
from metatext.evaluate import METHODS, make_methods, run_methods
from metatext.files import write_json, write_text
from metatext.fingerprints import describe, digest
from metatext.heads import LinearHead
from metatext.hub import read_metadata
from metatext.learner import Learner, default_device, saved_settings
from metatext.names import check_names
from metatext.plot import plot_accuracy, pyplot
from metatext.records import Record
from metatext.report import classes, compare, differences, is_own, summarise, table
from metatext.settings import EpisodeSettings, EvaluateSettings, LearnerSettings, Table, TrainConfig, names_by_label
from metatext.start import RULE
from metatext.tables import listed
from metatext.tasks import EpisodeSampler, split_classes
from metatext.trainer import MetaTrainer, check_output
from metatext.tune import EPOCHS, FEWEST
from metatext.user_files import read_domains

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
    """Meta-trains a learner on `domains` and writes it to `config.output`; returns the trainer's summary.

    `encoder` may be a saved learner too: meta-training goes on from it, with those settings that are not the default.
    """
    if config.output:
        check_output(Path(config.output), config)
        if Path(encoder).exists() and Path(encoder).resolve() == Path(config.output).resolve():
            raise InputError(f"{config.output} cannot be both the encoder and the output: name another output")
    shared = saved_settings(encoder).get("head", settings.head) == "linear"
    sampler, valid_sampler = make_samplers(domains, episodes, shared)
    defaults = dataclasses.asdict(LearnerSettings())
    changed = {name: value for name, value in dataclasses.asdict(settings).items() if value != defaults[name]}
    if changed.keys() & {"algorithm", "inner_optimizer"}:  # the saved order may not go with these
        changed["second_order_steps"] = settings.second_order_steps
    learner = Learner.from_pretrained(encoder, **changed | ({"classes": sampler.classes} if shared else {}))
    return MetaTrainer(learner, sampler, valid_sampler, config, on_validation, target_texts).train()


def make_samplers(
    domains: Sequence[Domain], episodes: EpisodeSettings, shared: bool
) -> tuple[EpisodeSampler, EpisodeSampler | None]:
    """Episodes to train on and to validate on; None where no validation is possible.

    With a prototype head each episode has new classes, and validation classes are held out of the sources. With a
    linear head the domains share their classes (`shared`); there is no validation, and the last weights are kept.
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
    spared = sorted(set().union(*(domain.classes for domain in valid_domains)))
    if shared:
        why = "the learned head has them all"
    else:
        why = "there are none to spare" if episodes.valid_fraction or episodes.valid_classes else "as was asked"
    nothing = f"no class ({why}): the last weights are kept"
    logger.info("held out for validation: %s", ", ".join(spared) or nothing)
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


def read_sources(run: str, methods: Sequence[str]) -> list[Domain]:
    """The source domains that a run was trained on; none where no method asks for them."""
    if not {"source", "joint"} & set(methods):
        return []
    if read_metadata(Path(run)).get("kind") == "classifier":
        raise InputError(f"{run} holds a classifier, but what is needed is a learner, which metatext train writes")
    path = Path(run) / "sources.json"
    if not path.exists():
        raise InputError(f"{run} does not say what it was trained on: name the files, --source a.jsonl b.jsonl")
    domains = list[Domain]()
    for entry in json.loads(path.read_text(encoding="utf-8")):
        place = entry.pop("path")
        domains += read_domains([place], Table(**entry | {"clean": tuple(entry["clean"])}))
    return domains


def evaluation_files(output: Path, plot: bool = False) -> list[Path]:
    """What `evaluate` writes: the result as JSON, the report as Markdown, and the figure.

    Raises:
        InputError: `output` is not called .json.
    """
    if output.suffix != ".json":
        raise InputError(f"{output} is to be a JSON file, beside which the report is written as .md: name it .json")
    return [output, output.with_suffix(".md"), *([output.with_suffix(".svg")] if plot else [])]


def evaluate(
    runs: Sequence[str],
    target: Domain,
    sources: Sequence[Domain],
    settings: EvaluateSettings,
    test: Domain | None = None,
    output: Path | None = None,
    supports: Sequence[Domain] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Judges the learners in `runs` and the baselines on the same draws of `target`.

    Results are kept beside `output` as they come, so that the same evaluation, interrupted, goes on where it was; the
    finished result is written to `output` as JSON, and to a file with suffix .md the table, the differences and how
    well each class is told. With `supports`, those of an official split, each is the support of a draw in place of
    random ones, and `test` is needed. The source classifier is left out where the target has other classes than the
    sources.

    Returns:
        The printed table and differences, the table's rows, comparisons of learners with all rows, every single result,
        and under which settings and versions they were obtained.
    """
    files = evaluation_files(output, settings.plot) if output else []
    check_names(names_by_label(settings.class_names), target.classes)
    if settings.plot:
        pyplot()  # says now if it is missing
    if supports:
        if test is None or "unlabelled" in settings.methods:
            raise InputError("an official split needs test texts, and has no unlabelled rows to offer")
        logger.info("%d official supports are the draws; shots, draws and ways are not used", len(supports))
        draws = official_draws(supports, test, settings.test_size)
    else:
        draws = make_draws(
            target, settings.shots, settings.draws, settings.draw_seed, test, settings.ways, settings.test_size
        )
    if "unlabelled" in settings.methods:
        for draw in draws:  # refuses a target with too few rows, before hours of baselines
            unlabelled_texts(target, sorted({label for _, label in draw.support}), set(draw.texts))
    learners: dict[str, Learner] = {}
    for run in runs:
        learner = _load(run, settings, **({"max_length": settings.max_length} if settings.max_length else {}))
        if isinstance(learner.head, LinearHead):
            learner.head.start(target.classes)  # refuses labels that it does not know, before hours of baselines
        name = learner.method
        learners[name if name not in learners else f"{name} ({run})"] = learner
    first = next(iter(learners.values()))
    view = _view(first)
    for name, learner in learners.items():
        if (learner.base_model, _view(learner)) != (first.base_model, view):
            raise InputError(
                f"{name!r} and {next(iter(learners))!r} have other encoders, or read texts in other ways: "
                "the baselines would be those of the one only; evaluate them apart"
            )
    _warn_of_known_texts(draws, sources)

    @cache
    def encoder() -> Learner:
        return _load(first.base_model, settings, **view)

    @cache
    def joint() -> Learner:
        return _joint(encoder(), sources, settings)

    shared = set(target.classes) <= {name for domain in sources for name in domain.classes}
    wanted = settings
    if not shared and "source" in settings.methods:
        unknown = sorted(set(target.classes) - {name for domain in sources for name in domain.classes})
        logger.warning("no row for the source classifier: the sources have no class %s", listed(unknown))
        wanted = dataclasses.replace(settings, methods=tuple(m for m in settings.methods if m != "source"))
    log = _log_of(output, draws, first.base_model, view, [target, *sources], settings) if output else None
    methods = make_methods(wanted, target, encoder, joint, learners)
    if not methods:
        raise InputError("no method is left to evaluate: name others with --methods")
    digests = {name: _digest_of_weights(learner) for name, learner in learners.items()}
    weights = {row: held for name, held in digests.items() for row in methods if is_own(row, [name])}
    records = run_methods(methods, draws, progress, log, weights)
    rows, comparisons = summarise(records), compare(records, list(learners))
    result: dict[str, Any] = {
        "target": target.name,
        "target_rows": len(target),
        "classes": target.classes,
        "encoder": Path(first.base_model).name,
        "sources": first.sources,
        "settings": dataclasses.asdict(settings),
        "official_supports": len(supports),
        "draws_sha256": {
            str(shots): digest([[dataclasses.asdict(draw) for draw in draws if draw.shots == shots]])
            for shots in sorted({draw.shots for draw in draws})
        },
        "learners": {name: dataclasses.asdict(learner.settings) for name, learner in learners.items()},
        "machine": _machine(first.device),
        "versions": {"metatext": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "table": table(rows),
        "differences": differences(rows, comparisons, list(learners), METHODS["finetune"]),
        "rows": rows,
        "comparisons": comparisons,
        "records": [{key: value for key, value in r.items() if key != "confusion"} for r in records],  # in rows
    }
    if output and log:
        sentences = "\n".join(f"- {sentence}" for sentence in result["differences"])
        parts = [result["table"], sentences, classes(rows, list(learners))]
        place, report, *figures = files
        write_text(report, "\n\n".join(part for part in parts if part) + "\n")
        for path in figures:
            plot_accuracy(path, rows)
        write_json(place, result)
        log.unlink()
    return result


def _load(name: str, settings: EvaluateSettings, **options: Any) -> Learner:
    """A learner or encoder, where and in the precision in which it is judged."""
    learner = Learner.from_pretrained(name, **options).to(default_device())
    learner.autocast_dtype = torch.bfloat16 if settings.precision == "bf16" else None
    return learner


def _log_of(
    output: Path,
    draws: Sequence[Draw],
    encoder: str,
    view: dict[str, Any],
    domains: Sequence[Domain],
    settings: EvaluateSettings,
) -> Path:
    """The file beside `output` that holds the results of just these draws, encoder, domains, settings and version."""
    same = dataclasses.asdict(settings)
    del same["methods"], same["joint"], same["max_length"], same["plot"]
    code = [
        __version__,
        RULE,
        EPOCHS,
        FEWEST,
        sorted(Record.__annotations__),
    ]  # a log of other code is another
    found = digest([[dataclasses.asdict(draw) for draw in draws], same, view, encoder, describe(domains), code])
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.with_name(f".{output.name}.{found}.jsonl")


def _view(learner: Learner) -> dict[str, Any]:
    """How a learner reads texts, and so the baselines beside it."""
    return {name: getattr(learner.settings, name) for name in ("pooling", "text_prefix", "max_length")}


def _warn_of_known_texts(draws: Sequence[Draw], sources: Sequence[Domain]) -> None:
    known = {text for domain in sources for text in domain.texts}
    judged = {text for draw in draws for text, _ in draw.test}
    if both := len(known & judged):
        logger.warning(
            "%d of the %d test texts are source texts too: what was trained on the sources has seen them, "
            "and looks better than it is",
            both,
            len(judged),
        )


def _machine(device: torch.device) -> str:
    cores = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    return f"{cores}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else cores


def _digest_of_weights(learner: Learner) -> str:
    """Of all that its answers depend on. Of the bytes: sums would differ with the number of threads."""
    settings = dataclasses.asdict(learner.settings) | {"classes": list(learner.settings.classes)}
    state = hashlib.sha256(json.dumps(settings).encode())
    tensors = [*learner.parameters(), *(learner.pretrained or {}).values()]
    if learner.source_classes:
        state.update(json.dumps(learner.source_classes.names).encode())
        tensors += [tensor for tensor in learner.source_classes[1:] if tensor is not None]
    for tensor in tensors:
        state.update(tensor.detach().cpu().numpy().tobytes())
    return state.hexdigest()[:12]


def _joint(encoder: Learner, sources: Sequence[Domain], settings: EvaluateSettings) -> Learner:
    """The jointly trained classifier, from its folder if it is there and was trained on the same, in the same way."""
    folder = Path(settings.joint) if settings.joint else None
    how = {
        "encoder": encoder.base_model,
        "sources": digest([[[domain.texts, domain.labels] for domain in sources]]),
        "epochs": settings.joint_epochs,
        "lr": settings.fine_tune_lr,
        "precision": settings.precision,
    }
    if folder and folder.exists():
        note = folder / "joint.json"
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != how:
            raise FileExistsError(f"{folder} holds another joint training: name another folder, or remove it")
        model = Learner.from_pretrained(folder, max_length=encoder.settings.max_length).to(encoder.device)
    else:
        rows = sum(map(len, sources))
        logger.info("joint training on %d source rows, for the rows joint and source of --methods", rows)
        model = joint_training(encoder, sources, settings.joint_epochs, lr=settings.fine_tune_lr)
        if folder:
            model.save_pretrained(folder)
            write_json(folder / "joint.json", how)
    model.autocast_dtype = encoder.autocast_dtype
    return model
