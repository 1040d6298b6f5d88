"""Confidence intervals, paired tests and calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Comparison(NamedTuple):
    """Paired difference of two methods on the same draws and test texts."""

    difference: float
    """Mean difference, first minus second."""
    ci95: float
    """Half-width of its 95% confidence interval."""
    p_value: float
    """Two-sided p-value."""


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


class Influence(NamedTuple):
    """How much each test text moves the score of each draw, as one entry per judged text of a draw."""

    values: np.ndarray
    """Derivative of a draw's score by the weight of a text, float (entries,). The values of a draw sum to 0. For
    accuracy they are (correct - accuracy) / texts."""
    texts: np.ndarray
    """Number of the text, int (entries,): the same in all draws that share it."""


def two_way_interval(scores: np.ndarray, influence: Influence) -> tuple[float, float]:
    """Returns the mean over draws and the half-width of its 95% confidence interval, over draws and test texts.

    Args:
        scores: one score per draw, (draws,), at least 2.
        influence: of the texts on these scores.

    Example:
        >>> answers = np.array([1, 1, 0, 1] * 2)  # the same four answers in two draws: texts alone vary
        >>> mean, half_width = two_way_interval(
        ...     np.array([0.75, 0.75]), Influence((answers - 0.75) / 4, np.arange(8) % 4)
        ... )
        >>> f"{mean:.2f} ± {half_width:.2f}"  # Student's t over four texts
        '0.75 ± 0.80'
    """
    return float(np.mean(scores)), _half_width(*two_way_variance(scores, influence))


def two_way_comparison(differences: np.ndarray, influence: Influence) -> Comparison:
    """Tests paired differences of two methods over draws and test texts, by Student's t.

    Args:
        differences: one difference per draw, (draws,), at least 2.
        influence: of the texts on these differences.
    """
    variance, freedom = two_way_variance(differences, influence)
    difference, half_width = float(np.mean(differences)), _half_width(variance, freedom)
    if variance == 0:
        return Comparison(difference, half_width, float(difference == 0))
    return Comparison(difference, half_width, float(2 * stats.t.sf(abs(difference) / np.sqrt(variance), freedom)))


def _half_width(variance: float, freedom: float) -> float:
    """Half-width of the 95% confidence interval, Student's t."""
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))


def two_way_variance(scores: np.ndarray, influence: Influence) -> tuple[float, float]:
    """Variance of a mean over draws and its degrees of freedom, if draws and test texts are both random samples.

    The pigeonhole bootstrap (Owen 2007) resamples rows (draws) and columns (texts) of the table of answers. A text that
    several draws share is resampled for all of them. Its variance has a closed form for scores that are linear in the
    weights of the texts: draws + texts + interaction. It is conservative, because each of the three terms includes the
    variance of single answers, which counts once. So the interaction is subtracted here, not added; the result is at
    least the larger of the other two. It is the two-way clustered variance of Cameron, Gelbach and Miller (2011).

    With other texts in each draw the variance is that of draws alone (Student's t). The degrees of freedom are
    Satterthwaite's. With 2 or 3 draws that differ much, 95% intervals cover about 90%.

    Args:
        scores: one score per draw, (draws,), at least 2.
        influence: of the texts on these scores.

    Returns:
        The variance and its degrees of freedom, at least 1.
    """
    draws = len(scores)
    _, columns = np.unique(influence.texts, return_inverse=True)
    of_text = np.bincount(columns, influence.values) / draws  # mean influence of each text over all draws
    texts = len(of_text)
    correction = texts / max(texts - 1, 1)
    by_draw = float(np.var(scores, ddof=1)) / draws
    by_text = correction * float(np.square(of_text).sum())
    # sum over draws and texts of (influence - mean influence of the text)^2
    residual = float(np.square(influence.values).sum() - draws * np.square(of_text).sum())
    interaction = correction * max(residual, 0.0) / (draws * (draws - 1))
    variance = max(by_draw + by_text - interaction, by_draw, by_text)
    spread = by_draw**2 / (draws - 1) + by_text**2 / max(texts - 1, 1)
    return variance, max(variance**2 / spread, 1.0) if spread else 1.0


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
