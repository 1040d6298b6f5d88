"""Methods and baselines on the same draws of a target domain, with 95% confidence intervals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score
from tqdm.auto import tqdm

from metatext import baselines
from metatext.baselines import Fit
from metatext.domains import Domain
from metatext.draws import Draw
from metatext.errors import InputError
from metatext.files import write_text
from metatext.learner import Learner
from metatext.maml import adapted
from metatext.settings import EvaluateSettings
from metatext.tasks import Examples

METHODS = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "frozen": "frozen encoder + logistic regression",
    "finetune": "fine-tuning the pretrained encoder",
    "source": "source classifier, no target label",
    "joint": "joint training, then fine-tuning",
    "maml": "the given learners, adapted",
}


class Answer(NamedTuple):
    """Predicted labels of the test texts, and the seconds that fitting took."""

    labels: list[str]
    fit_seconds: float


Method = Callable[[Sequence[str], Sequence[str], Sequence[str]], Answer]
"""(support texts, support labels, test texts) -> answer."""


def timed(fit: Fit) -> Method:
    """A baseline as a method."""

    def run(texts: Sequence[str], labels: Sequence[str], queries: Sequence[str]) -> Answer:
        start = time.perf_counter()
        predict = fit(texts, labels)
        seconds = time.perf_counter() - start
        return Answer(predict(queries), seconds)

    return run


def maml(learner: Learner) -> Method:
    """The learner's inner loop on the support; it is judged while adapted, as its exported classifier would be."""

    def run(texts: Sequence[str], labels: Sequence[str], queries: Sequence[str]) -> Answer:
        classes = sorted(set(labels))
        support = Examples(list(texts), [classes.index(label) for label in labels])
        start = time.perf_counter()
        with adapted(learner, support, classes) as layer:
            seconds = time.perf_counter() - start
            best = layer.logits(learner.encode(queries).to(learner.device)).argmax(1)
        return Answer([classes[i] for i in best.tolist()], seconds)

    return run


def make_methods(
    settings: EvaluateSettings,
    target: Domain,
    encoder: Callable[[], Learner],
    joint: Callable[[], Learner],
    learners: Mapping[str, Learner],
) -> dict[str, Method]:
    """The methods of a table, by the name of their row.

    Args:
        settings: `methods` are keys of `METHODS`.
        target: the target domain, for its most frequent label.
        encoder: gives the pretrained encoder (asked only if a wanted method needs it).
        joint: gives the classifier trained jointly on the sources (likewise).
        learners: meta-trained learners by the name of their row.

    Raises:
        InputError: an unknown method.
    """
    wanted, tuning = settings.methods, (settings.fine_tune_steps, 16, settings.fine_tune_lr)
    for key in wanted:
        if key not in METHODS:
            raise InputError(f"unknown method {key!r}: choose from {', '.join(METHODS)}")
    makers: dict[str, Callable[[], Method]] = {
        "majority": lambda: timed(baselines.majority(target)),
        "tfidf": lambda: timed(baselines.tfidf),
        "frozen": lambda: timed(baselines.frozen(encoder())),
        "finetune": lambda: timed(baselines.fine_tuning(encoder(), *tuning)),
        "source": lambda: timed(baselines.source_classifier(joint())),
        "joint": lambda: timed(baselines.fine_tuning(joint(), *tuning)),
    }
    methods = {METHODS[key]: makers[key]() for key in METHODS if key in wanted and key in makers}
    if "maml" in wanted:
        methods |= {name: maml(learner) for name, learner in learners.items()}
    return methods


def run_methods(
    methods: Mapping[str, Method],
    draws: Sequence[Draw],
    progress: bool = True,
    log: Path | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Judges every method on every draw.

    Args:
        methods: by the name of their row.
        draws: what they are judged on.
        progress: show a progress bar.
        log: JSON-lines file that gets each record as it comes; those that it holds already are not made again, so a
            long evaluation goes on where it was interrupted. The caller answers for the file's being of these draws.
        weights: digest of a method's weights; a logged record of the method counts only if it has the same.

    Returns:
        One record a method and draw: method, weights, shots, draw, test_rows, accuracy, macro_f1, fit_seconds.
    """
    weights = weights or {}
    known = {(r["method"], r["weights"], r["shots"], r["draw"]): r for r in _logged(log)}
    records = []
    bar = tqdm(total=len(methods) * len(draws), unit="fit", disable=not progress, dynamic_ncols=True)
    for name, method in methods.items():
        bar.set_description(name[:30])
        for draw in draws:
            if record := known.get((name, weights.get(name), draw.shots, draw.number)):
                records.append(record)
                bar.update()
                continue
            texts, labels = zip(*draw.support, strict=True)
            answer = method(texts, labels, [text for text, _ in draw.test])
            truth = [label for _, label in draw.test]
            scores = {
                "accuracy": float(accuracy_score(truth, answer.labels)),
                "macro_f1": float(f1_score(truth, answer.labels, average="macro", zero_division=0)),
            }
            place = {"method": name, "weights": weights.get(name), "shots": draw.shots, "draw": draw.number}
            place |= {"test_rows": len(truth)}
            records.append(place | scores | {"fit_seconds": round(answer.fit_seconds, 3)})
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
            bar.update()
    bar.close()
    return records


def _logged(log: Path | None) -> list[dict[str, Any]]:
    """The records of a log; a last line that an interruption cut is taken off."""
    if not log or not log.exists():
        return []
    whole, _, cut = log.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        write_text(log, whole + "\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half-width of its 95% confidence interval over the draws (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def summarise(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a method and number of shots: mean and 95% half-width of accuracy and macro-F1, seconds per fit."""
    rows = []
    for method, shots in dict.fromkeys((r["method"], r["shots"]) for r in records):
        chosen = [r for r in records if (r["method"], r["shots"]) == (method, shots)]
        row: dict[str, Any] = {"method": method, "shots": shots, "draws": len(chosen)}
        for metric in ("accuracy", "macro_f1"):
            row[metric], row[f"{metric}_ci95"] = confidence_interval([r[metric] for r in chosen])
        row["fit_seconds"] = float(np.median([r["fit_seconds"] for r in chosen]))
        rows.append(row)
    return rows


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table: a row a method, a column a number of shots; values in per cent."""
    shots = sorted({row["shots"] for row in rows})
    cells = {(row["method"], row["shots"]): row for row in rows}
    head = ["method", *(f"{k} shot{'s' * (k > 1)}: accuracy / macro-F1" for k in shots), "s per fit"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        values = [cells[method, k] for k in shots]
        scores = [
            f"{100 * v['accuracy']:.1f} ± {100 * v['accuracy_ci95']:.1f} / "
            f"{100 * v['macro_f1']:.1f} ± {100 * v['macro_f1_ci95']:.1f}"
            for v in values
        ]
        seconds = "-".join(dict.fromkeys(f"{v['fit_seconds']:.2g}" for v in (values[0], values[-1])))
        lines.append("| " + " | ".join([method, *scores, seconds]) + " |")
    return "\n".join(lines)


def paired_difference(records: Sequence[dict[str, Any]], method: str, other: str, shots: int) -> tuple[float, float]:
    """Mean accuracy difference `method` - `other` over the same draws, and half-width of its 95% interval."""

    def of(name: str) -> dict[int, float]:
        return {r["draw"]: r["accuracy"] for r in records if r["method"] == name and r["shots"] == shots}

    mine, theirs = of(method), of(other)
    return confidence_interval([mine[draw] - theirs[draw] for draw in mine])


def differences(records: Sequence[dict[str, Any]], learners: Sequence[str]) -> list[str]:
    """One sentence a learner and number of shots: its gain over fine-tuning the same encoder, paired by draw."""
    other = METHODS["finetune"]
    sentences = []
    for shots in sorted({record["shots"] for record in records}):
        for name in learners:
            if {(name, shots), (other, shots)} <= {(record["method"], record["shots"]) for record in records}:
                mean, half = paired_difference(records, name, other, shots)
                plural = "s" if shots > 1 else ""
                sentences.append(f"{name} - {other}, {shots} shot{plural}: {100 * mean:+.1f} ± {100 * half:.1f} points")
    return sentences
