"""Confidence intervals, paired tests and calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Comparison(NamedTuple):
    """Paired difference of two methods on the same draws."""

    difference: float
    """Mean difference, first minus second."""
    ci95: float
    """Half-width of its 95% confidence interval."""
    p_value: float
    """Two-sided p-value of the paired permutation test."""


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the half-width of its 95% confidence interval (Student's t); NaN for a single value.

    Example:
        >>> mean, half_width = confidence_interval([0.5, 0.6, 0.7])
        >>> f"{mean:.2f} ± {half_width:.2f}"
        '0.60 ± 0.25'
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def paired_comparison(mine: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Compares two methods by their paired differences, `mine` - `theirs`.

    The test is the paired permutation test, which flips the signs of the differences: all 2^n flips up to 16 draws,
    100,000 random ones above. The p-value of n draws is at least 2 / 2^n: 0.002 for 10 draws. The interval is Student's
    t, because a bootstrap interval is too narrow for as few as 10 draws.

    Args:
        mine: one value per draw.
        theirs: the other method's values on the same draws.

    Example:
        >>> found = paired_comparison([0.6, 0.7, 0.8, 0.7], [0.5, 0.6, 0.6, 0.5])
        >>> round(found.difference, 2), found.p_value  # 4 draws: the p-value is at least 2 / 2^4
        (0.15, 0.125)
    """
    differences = np.subtract(mine, theirs)
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=100_000, batch=10_000, rng=0
    )
    return Comparison(*confidence_interval(differences.tolist()), float(test.pvalue))


def calibration_error(probabilities: Sequence[float] | np.ndarray, correct: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error (Guo 2017, eq. 3): mean gap between confidence and accuracy over bins of confidence.

    Args:
        probabilities: probability of each predicted label, in (0, 1].
        correct: whether each prediction is correct.
        bins: number of bins of equal width, open below and closed above.

    Example:
        >>> calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
        0.0
    """
    confidence, is_correct = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=is_correct - confidence, minlength=bins)  # |B| (acc(B) - conf(B)) of each bin
    return float(np.abs(gaps).sum() / len(is_correct))
