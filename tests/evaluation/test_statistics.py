"""Statistics against hand computation and scipy."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from metatext.evaluation.statistics import calibration_error, confidence_interval, paired_comparison


def test_confidence_interval_is_students() -> None:
    assert confidence_interval([1, 2, 3, 4]) == (2.5, pytest.approx(2.0542603))  # 3.1824463 * 1.2909944 / 2
    assert confidence_interval([0.5, 0.5, 0.5]) == (0.5, 0.0)
    mean, half = confidence_interval([0.25])
    assert mean == 0.25 and math.isnan(half)


def test_comparison_of_two_draws() -> None:
    found = paired_comparison([0.5, 0.7], [0.2, 0.6])  # differences 0.3 and 0.1
    assert found.difference == pytest.approx(0.2) and found.ci95 == pytest.approx(1.2706205)  # 12.706205 * 0.1
    assert found.p_value == 0.5  # of the four signs, +0.3 +0.1 and -0.3 -0.1 are as far from 0


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2 / 2**5),  # all of one sign: only this and its opposite
        ([1, 2, 3, 4, -1.5], 6 / 2**5),  # sum 8.5: as far up are negative sets {}, {1}, {1.5}
        ([0.1] * 10, 2 / 2**10),
        ([0.0] * 4, 1.0),
        ([0.2, -0.2], 1.0),
    ],
)
def test_p_value_is_the_share_of_signs_as_far_from_zero(differences: list[float], expected: float) -> None:
    there = [0.25 * i for i in range(len(differences))]  # whatever the draws have in common plays no part
    assert paired_comparison(np.add(there, differences).tolist(), there).p_value == pytest.approx(expected)
    assert paired_comparison(there, np.add(there, differences).tolist()).p_value == pytest.approx(expected)


def test_comparison_agrees_with_the_t_test_over_many_draws() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = rng.normal(0.5, 0.1, (2, 40))
    found, test = paired_comparison(mine.tolist(), theirs.tolist()), stats.ttest_rel(mine, theirs)
    low, high = test.confidence_interval()
    assert (found.difference - found.ci95, found.difference + found.ci95) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(test.pvalue, abs=0.01)
    assert paired_comparison(mine.tolist(), theirs.tolist()) == found


def test_calibration_error_by_hand() -> None:
    # bins of 1/15: 0.95 and 0.99 in the last, 0.6 in (0.533, 0.6], its upper edge, and 0.5 in (0.467, 0.533]
    found = calibration_error([0.95, 0.99, 0.6, 0.5], [True, False, True, True])
    assert found == pytest.approx((abs(1 - 1.94) + abs(1 - 0.6) + abs(1 - 0.5)) / 4)
    # two bins: the three above a half are one, in which 2 of 3 are right
    assert calibration_error([0.95, 0.99, 0.6, 0.5], [True, False, True, True], bins=2) == pytest.approx(
        (abs(2 - 2.54) + abs(1 - 0.5)) / 4
    )
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([1.0, 1.0, 1.0, 1.0], [True, False, True, True]) == pytest.approx(0.25)


def test_calibration_error_falls_to_zero_where_probabilities_are_true() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.2, 1, 100_000)
    assert calibration_error(probabilities, (rng.uniform(size=100_000) < probabilities).tolist()) < 0.01


def test_statistics_need_no_torch() -> None:
    code = (
        "import sys, metatext.evaluation.statistics, metatext.evaluation.plot\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
