"""Confidence intervals and comparisons of records.

Two samples make a score uncertain: the draws of the support, and the test texts. Draws that share their test texts also
share the luck of these texts, so the spread over draws does not show it. The intervals here generalise to other draws
and to other test texts of the target, if its test texts are a random sample (`statistics.two_way_variance`).

Records of earlier versions do not say which texts were answered correctly. Their intervals are Student's t over draws,
and generalise to other draws on the same test texts only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from metatext.evaluation.statistics import (
    Comparison,
    Influence,
    confidence_interval,
    paired_comparison,
    two_way_comparison,
    two_way_interval,
)

Score = Literal["accuracy", "macro_f1"]
Records = Sequence[Mapping[str, Any]]
TestTexts = Sequence[Sequence[int]]
"""Numbers of the test texts of each draw, by draw number (`support_draws.number_test_texts`); empty if unknown."""

_NEEDED: dict[Score, str] = {"accuracy": "correct", "macro_f1": "predicted"}


def to_bits(values: Sequence[bool] | np.ndarray) -> str:
    """Writes truth values as a hexadecimal string, four to a digit.

    Example:
        >>> to_bits([True, False, True, False, True])
        'a8'
    """
    return np.packbits(np.asarray(values, dtype=bool)).tobytes().hex()


def from_bits(text: str) -> np.ndarray:
    """Reads the truth values of `to_bits`, bool (n,); False up to a multiple of eight is added at the end."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).astype(bool)


def score_interval(records: Records, score: Score, test_texts: TestTexts = ()) -> tuple[float, float]:
    """Returns the mean of a score over draws and the half-width of its 95% confidence interval.

    Args:
        records: records of one method and number of shots.
        score: the score; the interval of macro-F1 over test texts needs the predicted classes, which results leave out.
        test_texts: the test texts of each draw.
    """
    values = [record[score] for record in records]
    if len(values) > 1 and _know_texts(records, score, test_texts):
        return two_way_interval(np.asarray(values), _influence(records, score, test_texts))
    return confidence_interval(values)


def compare_accuracy(mine: Records, theirs: Records, test_texts: TestTexts = ()) -> Comparison:
    """Compares the accuracy of two methods, `mine` - `theirs`.

    Args:
        mine: records of one method and number of shots.
        theirs: the other method's records on the same draws, in the same order.
        test_texts: the test texts of each draw.
    """
    values, others = ([record["accuracy"] for record in records] for records in (mine, theirs))
    if len(values) > 1 and _know_texts([*mine, *theirs], "accuracy", test_texts):
        own, other = (_influence(records, "accuracy", test_texts) for records in (mine, theirs))
        return two_way_comparison(np.subtract(values, others), Influence(own.values - other.values, own.texts))
    return paired_comparison(values, others)


def _know_texts(records: Records, score: Score, test_texts: TestTexts) -> bool:
    return bool(test_texts) and all(_NEEDED[score] in record for record in records)


def _influence(records: Records, score: Score, test_texts: TestTexts) -> Influence:
    values = []
    for record in records:
        if score == "accuracy":
            correct = from_bits(record["correct"])[: len(test_texts[record["draw"]])]
            values.append((correct - correct.mean()) / len(correct))
        else:
            values.append(macro_f1_influence(np.asarray(record["truth"]), np.asarray(record["predicted"])))
    texts = np.concatenate([test_texts[record["draw"]] for record in records])
    return Influence(np.concatenate(values), texts)


def macro_f1_influence(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Influence of each text on macro-F1: its derivative by the text's weight, float (n,).

    F1 of a class is 2 TP / S, where S counts the texts that have or are given the class. The classes are those of
    `truth`.

    Args:
        truth: class of each text, int (n,).
        predicted: predicted class of each text, int (n,).
    """
    size = int(max(truth.max(), predicted.max())) + 1
    counts = np.bincount(truth, minlength=size)
    sums = np.maximum(counts + np.bincount(predicted, minlength=size), 1)  # S of each class
    hits = truth == predicted
    f1 = np.where(counts > 0, 2 * np.bincount(truth[hits], minlength=size) / sums, 0)
    influence = 2 * hits / sums[truth] - f1[truth] / sums[truth] - f1[predicted] / sums[predicted]
    return np.asarray(influence / np.count_nonzero(counts))
