"""Judges methods on draws."""

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

from metatext.evaluation.baselines import Fit
from metatext.evaluation.records import Record, logged_records
from metatext.evaluation.statistics import calibration_error
from metatext.evaluation.support_draws import Draw


class Answer(NamedTuple):
    """Predicted labels of the test texts, the seconds that fitting took, and how probable the labels are said to be."""

    labels: list[str]
    fit_seconds: float
    probabilities: np.ndarray | None = None  # (texts,)


Method = Callable[[Sequence[str], Sequence[str], Sequence[str]], Answer]
"""(support texts, support labels, test texts) -> answer."""


def timed(fit: Fit) -> Method:
    """A baseline as a method."""

    def run(texts: Sequence[str], labels: Sequence[str], queries: Sequence[str]) -> Answer:
        start = time.perf_counter()
        predict = fit(texts, labels)
        seconds = time.perf_counter() - start
        found = predict(queries)
        return Answer(found.labels, seconds, found.probabilities)

    return run


def run_methods(
    methods: Mapping[str, Method],
    draws: Sequence[Draw],
    progress: bool = True,
    log: Path | None = None,
    weights: Mapping[str, str] | None = None,
) -> list[Record]:
    """Judges every method on every draw.

    Args:
        methods: by the name of their row.
        draws: what they are judged on.
        progress: show a progress bar.
        log: JSON-lines file that gets each record as it comes; those that it holds already are not made again, so a
            long evaluation goes on where it was interrupted. The caller answers for the file's being of these draws.
        weights: digest of a method's weights; a logged record of the method counts only if it has the same.

    Returns:
        One record a method and draw.
    """
    weights = weights or {}
    known = {(r["method"], r["weights"], r["shots"], r["draw"]): r for r in logged_records(log)}
    records = list[Record]()
    bar = tqdm(total=len(methods) * len(draws), unit="fit", disable=not progress, dynamic_ncols=True)
    for name, method in methods.items():
        bar.set_description(name[:30])
        for draw in draws:
            if record := known.get((name, weights.get(name), draw.shots, draw.number)):
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
    texts, labels = zip(*draw.support, strict=True)
    answer = method(texts, labels, [text for text, _ in draw.test])
    truth = [label for _, label in draw.test]
    pairs = list(zip(truth, answer.labels, strict=True))
    error = None
    if answer.probabilities is not None:
        error = calibration_error(answer.probabilities, [label == given for label, given in pairs])
    confusion: dict[str, dict[str, int]] = {}
    for (label, given), count in sorted(Counter(pairs).items()):
        confusion.setdefault(label, {})[given] = count
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
    )
