"""Evaluates learners and baselines on a target domain, for `metatext evaluate` and the recipes."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from metatext._version import __version__
from metatext.adaptation.start_selection import warn_of_unreadable_names
from metatext.data.class_names import check_class_names, class_names_for, parse_class_names
from metatext.data.domains import Domain
from metatext.data.fingerprints import fingerprint
from metatext.encoders.transformers_loading import default_device
from metatext.errors import InputError, quote_list
from metatext.evaluation.class_name_baselines import usable_names
from metatext.evaluation.joint_training import load_or_train_joint
from metatext.evaluation.methods import METHODS, NAME_METHODS, make_methods
from metatext.evaluation.plot import plot_accuracy, pyplot
from metatext.evaluation.records import LONG_FIELDS, Record
from metatext.evaluation.report import class_tables, compare, differences, is_row_of, summarise, summary_table
from metatext.evaluation.resume_key import baseline_reading, fingerprint_of_weights, reading_settings, resume_log
from metatext.evaluation.scoring import Method, run_methods
from metatext.evaluation.settings import EvaluateSettings
from metatext.evaluation.support_draws import Draw, make_draws, number_test_texts, official_draws, unlabelled_texts
from metatext.files import write_json, write_text
from metatext.learners.heads import LinearHead
from metatext.learners.learner import Learner
from metatext.learners.text_length import adaptation_length

logger = logging.getLogger(__name__)


def evaluation_files(output: Path, plot: bool = False) -> list[Path]:
    """Lists the files that `evaluate` writes: the result (.json), the report (.md) and, if plotted, the figure (.svg).

    Raises:
        InputError: the name of `output` does not end in .json.

    Example:
        >>> [path.name for path in evaluation_files(Path("news.json"), plot=True)]
        ['news.json', 'news.md', 'news.svg']
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
    encoder: str | None = None,
) -> dict[str, Any]:
    """Evaluates the learners in `runs` and the baselines on the same draws of `target`.

    Each result is logged beside `output` at once. An interrupted evaluation resumes from this log.

    Args:
        runs: folders or Hub ids of learners.
        target: the labelled target.
        sources: training domains of the joint and source classifiers. The latter is skipped if they lack a class.
        settings: methods, draws and baselines.
        test: test texts. By default the test texts are target rows outside the support.
        output: JSON file, beside which the other `evaluation_files` are written. None writes nothing.
        supports: the supports of an official split, one per draw, instead of random draws; they require `test`.
        progress: show a progress bar.
        encoder: folder with the encoder of the learners, if they were saved without it.

    Returns:
        Table, differences (sentences), rows, comparisons and single results, with the settings and versions.

    Raises:
        InputError: settings that contradict each other or the target; learners with different encoders.
    """
    files = evaluation_files(output, settings.plot) if output else []
    check_class_names(parse_class_names(settings.class_names), target.classes)
    if settings.plot:
        pyplot()  # raises now if matplotlib is missing
    draws = _draws(target, settings, test, supports)
    learners = _load_learners(runs, target, settings, encoder)
    first = next(iter(learners.values()))
    reading = baseline_reading(first, settings.max_length)
    _warn_of_source_texts(draws, sources)

    base = encoder or first.base_model
    plain = cache(lambda: _load(base, settings, **reading))
    joint = cache(lambda: load_or_train_joint(plain(), sources, settings))
    log = resume_log(output, draws, base, reading, [target, *sources], settings) if output else None
    possible = _without_impossible_methods(settings, target, sources, first)
    methods = make_methods(possible, target, plain, joint, learners)
    _check_methods(methods, draws)
    digests = {name: fingerprint_of_weights(learner) for name, learner in learners.items()}
    weights = {row: digest for name, digest in digests.items() for row in methods if is_row_of(row, [name])}
    records = run_methods(methods, draws, progress, log, weights)
    result = _provenance(target, learners, base, draws, settings, supports) | _findings(records, list(learners), draws)
    if log:
        _write(files, result, list(learners))
        log.unlink()
    return result


def _draws(target: Domain, settings: EvaluateSettings, test: Domain | None, supports: Sequence[Domain]) -> list[Draw]:
    """Makes random draws, or those of an official split if there are `supports`."""
    if supports:
        if test is None or "unlabelled" in settings.methods:
            raise InputError("an official split needs test texts, and has no unlabelled rows to offer")
        logger.info("%d official supports are the draws; shots, draws and ways are not used", len(supports))
        return official_draws(supports, test, settings.test_size)
    draws = make_draws(
        target, settings.shots, settings.draws, settings.draw_seed, test, settings.ways, settings.test_size
    )
    if "unlabelled" in settings.methods:
        for draw in draws:  # rejects a target with too few rows before hours of baselines
            unlabelled_texts(target, draw.classes, set(draw.texts))
    return draws


def _load_learners(
    runs: Sequence[str], target: Domain, settings: EvaluateSettings, encoder: str | None
) -> dict[str, Learner]:
    """Loads the learners, by the name of their row; all must have the same encoder and read texts in the same way."""
    learners: dict[str, Learner] = {}
    for run in runs:
        learner = _load(run, settings, encoder=encoder)
        learner.tokens = learner.tokens.at(adaptation_length(learner, settings.max_length))
        if isinstance(learner.head, LinearHead):
            learner.head.start(target.classes)  # rejects unknown labels before hours of baselines
        name = learner.method
        learners[name if name not in learners else f"{name} ({run})"] = learner
    first = next(iter(learners))
    if settings.names:
        names = class_names_for(target.classes, parse_class_names(settings.class_names))
        warn_of_unreadable_names(learners[first], target.classes, names)
    expected = learners[first].base_model, reading_settings(learners[first])
    for name, learner in learners.items():
        if (learner.base_model, reading_settings(learner)) != expected:
            raise InputError(
                f"{name!r} and {first!r} have other encoders, or read texts in other ways: "
                "the baselines would be those of the one only; evaluate them apart"
            )
    return learners


def _load(name: str, settings: EvaluateSettings, **options: Any) -> Learner:
    """Loads a learner or encoder onto the default device, in the precision of the evaluation."""
    learner = Learner.from_pretrained(name, **options).to(default_device())
    learner.autocast_dtype = torch.bfloat16 if settings.precision == "bf16" else None
    return learner


def _without_impossible_methods(
    settings: EvaluateSettings, target: Domain, sources: Sequence[Domain], learner: Learner
) -> EvaluateSettings:
    """Removes the source classifier and the baselines that read names if they cannot work here, with a warning."""
    impossible = set[str]()
    if not sources and {"source", "joint"} & set(settings.methods):
        logger.warning("no row for the classifiers of the sources: it is not known which files they are (--source)")
        impossible.update({"source", "joint"})
    unknown = sorted(set(target.classes) - {name for domain in sources for name in domain.classes})
    if sources and unknown and "source" in settings.methods:
        logger.warning("no row for the source classifier: the sources have no class %s", quote_list(unknown))
        impossible.add("source")
    if asked := [METHODS[key] for key in NAME_METHODS if key in settings.methods]:
        names = usable_names(learner, target.classes, parse_class_names(settings.class_names))
        nameless = [label for label in target.classes if not names[label]]
        if not settings.names or len(target.classes) - len(nameless) < 2:
            why = "fewer than two classes have a name that the encoder can read" if settings.names else "--no-names"
            logger.warning("no row for %s: %s", quote_list(asked), why)
            impossible.update(NAME_METHODS)
        elif nameless and "names" in settings.methods:
            logger.warning("%r never predicts classes without a name: %s", METHODS["names"], quote_list(nameless))
    return dataclasses.replace(settings, methods=tuple(m for m in settings.methods if m not in impossible))


def _check_methods(methods: Mapping[str, Method], draws: Sequence[Draw]) -> None:
    """Rejects methods of which none can answer a draw."""
    if not any(method.runs_on(draw) for method in methods.values() for draw in draws):
        without = " without labels" if methods else ""
        raise InputError(f"no method is left to evaluate{without}: name others with --methods")


def _warn_of_source_texts(draws: Sequence[Draw], sources: Sequence[Domain]) -> None:
    """Warns if test texts are among the source texts."""
    source_texts = {text for domain in sources for text in domain.texts}
    test_texts = {text for draw in draws for text, _ in draw.test}
    if both := len(source_texts & test_texts):
        logger.warning(
            "%d of the %d test texts are source texts too: what was trained on the sources has seen them, "
            "and looks better than it is",
            both,
            len(test_texts),
        )


def _provenance(
    target: Domain,
    learners: Mapping[str, Learner],
    encoder: str,
    draws: Sequence[Draw],
    settings: EvaluateSettings,
    supports: Sequence[Domain],
) -> dict[str, Any]:
    """Describes the inputs, settings, machine and versions of an evaluation."""
    first = next(iter(learners.values()))
    return {
        "target": target.name,
        "target_rows": len(target),
        "classes": target.classes,
        "encoder": Path(encoder).name,
        "sources": first.sources,
        "settings": dataclasses.asdict(settings),
        "official_supports": len(supports),
        "draws_sha256": {
            str(shots): fingerprint([[_texts_of(draw) for draw in draws if draw.shots == shots]])
            for shots in sorted({draw.shots for draw in draws})
        },
        "learners": {
            name: dataclasses.asdict(learner.settings) | {"max_length": learner.tokens.max_length}
            for name, learner in learners.items()
        },
        "baselines": baseline_reading(first, settings.max_length),
        "machine": _machine(first.device),
        "versions": {
            "metatext": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _texts_of(draw: Draw) -> dict[str, Any]:
    """A draw without its classes, which follow from its texts; digests of earlier versions stay comparable."""
    return {name: value for name, value in dataclasses.asdict(draw).items() if name != "classes"}


def _machine(device: torch.device) -> str:
    cores = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"
    return f"{cores}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else cores


def _findings(records: Sequence[Record], learners: Sequence[str], draws: Sequence[Draw]) -> dict[str, Any]:
    """Collects the results: table, differences, rows, comparisons, numbers of the test texts, and records."""
    test_texts = number_test_texts(draws)
    rows, comparisons = summarise(records, test_texts), compare(records, learners, test_texts)
    return {
        "table": summary_table(rows),
        "differences": differences(rows, comparisons, learners, METHODS["finetune"]),
        "rows": rows,
        "comparisons": comparisons,
        "test_texts": test_texts,
        "records": [{key: value for key, value in r.items() if key not in LONG_FIELDS} for r in records],
    }


def _write(files: Sequence[Path], result: dict[str, Any], learners: Sequence[str]) -> None:
    """Writes the report and the figure, then the result, whose presence means that the evaluation is complete."""
    result_file, report_file, *figure_files = files
    sentences = "\n".join(f"- {sentence}" for sentence in result["differences"])
    parts = [result["table"], sentences, class_tables(result["rows"], learners)]
    write_text(report_file, "\n\n".join(part for part in parts if part) + "\n")
    for path in figure_files:
        plot_accuracy(path, result["rows"])
    write_json(result_file, result)
