"""Statistics over draws and of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Comparison(NamedTuple):
    """What two methods differ by on the same draws."""

    difference: float
    ci95: float
    p_value: float


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half-width of its 95% confidence interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def paired_comparison(mine: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Mean of `mine` - `theirs`, half-width of its 95% interval (Student's t), two-sided p-value.

    The p-value is that of the permutation test of paired samples, which flips the signs of the differences: all 2^n
    flips up to 16 draws, 100,000 random ones above. From n draws it is at least 2 / 2^n: 0.002 from 10 draws. The
    interval is not a bootstrap's, which is too narrow over as few as 10 draws.
    """
    differences = np.subtract(mine, theirs)
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=100_000, batch=10_000, rng=0
    )
    return Comparison(*confidence_interval(differences.tolist()), float(test.pvalue))


def calibration_error(probabilities: Sequence[float] | np.ndarray, correct: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error (Guo 2017, eq. 3): how far probabilities are from the share of answers that are right.

    Args:
        probabilities: of the answers, each in (0, 1].
        correct: whether the answers are right.
        bins: of equal width; each holds its upper edge.
    """
    confidence, right = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)  # |B| (acc(B) - conf(B)) of each bin
    return float(np.abs(gaps).sum() / len(right))
