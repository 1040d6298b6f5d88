"""Runs methods on draws and scores their predictions."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from tqdm.auto import tqdm

from metatext.data.episodes import Examples
from metatext.evaluation.baselines import Fit, Predict, ZeroShotFit
from metatext.evaluation.intervals import to_bits
from metatext.evaluation.records import Record, logged_records
from metatext.evaluation.statistics import calibration_error
from metatext.evaluation.support_draws import Draw


class Answer(NamedTuple):
    """Predictions of a method for the test texts of a draw."""

    labels: list[str]
    """The predicted label of each text."""
    fit_seconds: float
    """Seconds that fitting took, without prediction."""
    probabilities: np.ndarray | None = None
    """Probabilities of the predicted labels, (texts,); None if the method gives none."""


class Method(NamedTuple):
    """A row of an evaluation."""

    answer: Callable[[Examples, Sequence[str], Sequence[str]], Answer]
    """Maps (support, classes, test texts) to an answer; `classes` has the label of each class index of the support."""
    needs_labels: bool = True
    """Whether the support must have texts. A method that needs labels has no result at 0 shots."""

    def runs_on(self, draw: Draw) -> bool:
        """Whether the method can answer a draw."""
        return bool(draw.support) or not self.needs_labels

    def on(self, draw: Draw) -> Answer:
        """Answers the test texts of a draw."""
        labels = [draw.classes.index(label) for _, label in draw.support]
        support = Examples([text for text, _ in draw.support], labels)
        return self.answer(support, draw.classes, [text for text, _ in draw.test])


def timed(fit: Fit) -> Method:
    """Makes a method of a baseline and times its fit."""

    def answer(support: Examples, classes: Sequence[str], queries: Sequence[str]) -> Answer:
        labels = [classes[label] for label in support.labels]
        return _timed(lambda: fit(support.texts, labels), queries)

    return Method(answer)


def timed_zero_shot(fit: ZeroShotFit) -> Method:
    """Makes a method of a zero-shot baseline and times its fit."""
    return Method(lambda support, classes, queries: _timed(lambda: fit(classes), queries), needs_labels=False)


def _timed(fit: Callable[[], Predict], queries: Sequence[str]) -> Answer:
    start = time.perf_counter()
    predict = fit()
    seconds = time.perf_counter() - start
    prediction = predict(queries)
    return Answer(prediction.labels, seconds, prediction.probabilities)


def run_methods(
    methods: Mapping[str, Method],
    draws: Sequence[Draw],
    progress: bool = True,
    log: Path | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[Record]:
    """Runs every method on every draw; methods that need labels skip the draws of 0 shots.

    Args:
        methods: the methods by the name of their row.
        draws: few-shot problems.
        progress: show a progress bar.
        log: JSON-lines file to which each record is appended at once. Records that it holds already are reused, so an
            interrupted evaluation resumes. The caller must make sure that the file belongs to these draws.
        weights: digest of the weights of each method that has any. A logged record is reused only if its digest is the
            same.

    Returns:
        One record per method and draw that it runs on.
    """
    weights = weights or {}
    logged = {(r["method"], r["weights"], r["shots"], r["draw"]): r for r in logged_records(log)}
    records = list[Record]()
    fits = sum(method.runs_on(draw) for method in methods.values() for draw in draws)
    bar = tqdm(total=fits, unit="fit", disable=not progress, dynamic_ncols=True)
    for name, method in methods.items():
        bar.set_description(name[:30])
        for draw in filter(method.runs_on, draws):
            if record := logged.get((name, weights.get(name), draw.shots, draw.number)):
                records.append(record)
                bar.update()
                continue
            records.append(_judge(name, weights.get(name), method, draw))
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
            bar.update()
    bar.close()
    return records


def _judge(name: str, weights: str | None, method: Method, draw: Draw) -> Record:
    answer = method.on(draw)
    truth = [label for _, label in draw.test]
    pairs = list(zip(truth, answer.labels, strict=True))
    error = None
    if answer.probabilities is not None:
        error = calibration_error(answer.probabilities, [label == predicted for label, predicted in pairs])
    confusion: dict[str, dict[str, int]] = {}
    for (label, predicted), count in sorted(Counter(pairs).items()):
        confusion.setdefault(label, {})[predicted] = count
    _, indices = np.unique(pairs, return_inverse=True)
    true_classes, predicted_classes = indices.reshape(-1, 2).T
    return Record(
        method=name,
        weights=weights,
        shots=draw.shots,
        draw=draw.number,
        test_rows=len(truth),
        accuracy=float(accuracy_score(truth, answer.labels)),
        macro_f1=float(f1_score(truth, answer.labels, labels=sorted(set(truth)), average="macro", zero_division=0)),
        calibration_error=error,
        fit_seconds=round(answer.fit_seconds, 3),
        confusion=confusion,
        correct=to_bits(true_classes == predicted_classes),
        truth=true_classes.tolist(),
        predicted=predicted_classes.tolist(),
    )
