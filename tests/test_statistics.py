"""Known values: textbook tables, closed forms, and simulation where neither exists."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from bdscan.verdict import statistics


@pytest.mark.parametrize(
    ("t", "freedom", "p"), [(1.860, 8, 0.05), (4.501, 8, 0.001), (2.228, 10, 0.025), (2.018, 42, 0.025)]
)
def test_student_tail_matches_the_tables(t: float, freedom: int, p: float) -> None:
    assert statistics.student_tail(t, freedom) == pytest.approx(p, rel=2e-3)
    assert statistics.student_tail(-t, freedom) == pytest.approx(1 - p, rel=2e-3)


def test_student_tail_in_closed_form() -> None:
    for t in (0.0, 0.5, 3.0, 1e4):
        assert statistics.student_tail(t, 1) == pytest.approx(math.atan2(1, t) / math.pi, rel=1e-10)
    for t in (0.7, 40.0, 1e5):  # two degrees of freedom, written so that nothing cancels
        root = math.sqrt(2 + t * t)
        assert statistics.student_tail(t, 2) == pytest.approx(1 / (root * (root + t)), rel=1e-10)
    assert statistics.student_tail(math.inf, 5) == 0
    assert statistics.student_tail(-math.inf, 5) == 1


def test_leave_one_out_points_at_the_outlier_alone() -> None:
    p = statistics.leave_one_out([1.0, 1.1, 0.9, 1.05, 9.0, 0.95, 1.0, 1.02, 0.97, 1.03])
    assert p.argmin() == 4
    assert p[4] < 1e-9
    assert np.delete(p, 4).min() > 0.3


def test_leave_one_out_by_hand() -> None:
    p = statistics.leave_one_out([0.0, 1.0, 2.0, 5.0])
    t = (5 - 1) / (1 * math.sqrt(1 + 1 / 3))
    assert p[3] == pytest.approx(statistics.student_tail(t, 2))


def test_leave_one_out_is_uniform_under_the_null() -> None:
    draws = np.random.default_rng(0).normal(size=(1500, 10))
    p = np.concatenate([statistics.leave_one_out(row) for row in draws])
    for level in (0.01, 0.05, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * math.sqrt(level / len(p)))


def test_leave_one_out_says_nothing_without_a_yardstick() -> None:
    assert statistics.leave_one_out([1.0, 2.0, 30.0]).tolist() == [1, 1, 1]
    assert statistics.leave_one_out([0.0, 0.0, 0.0, 0.0, 0.02]).tolist()[4] == 1
    assert statistics.leave_one_out([0.0, 0.0, 0.0, 0.0, 1.0], floor=0.02)[4] < 1e-4
    assert statistics.leave_one_out([1.0, 1.1, 0.9, 1.05, math.nan])[4] == 1
    assert np.isfinite(statistics.leave_one_out([1.0, 1.1, 0.9, 1.05, math.inf])).all()


def test_robust_z() -> None:
    assert statistics.robust_z([1, 2, 3, 4, 100]).tolist() == pytest.approx(
        [-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 97 / 1.4826]
    )
    assert statistics.robust_z([2, 2, 2]).tolist() == [0, 0, 0]
    assert statistics.robust_z([0, 0, 0, 0, 5])[4] == pytest.approx(5 / math.sqrt(math.pi / 2))


def test_of_several() -> None:
    assert statistics.of_several(np.array([0.01, math.nan, 0.5])).tolist() == pytest.approx(
        [1 - 0.99**2, math.nan, 0.75], nan_ok=True
    )
    assert statistics.of_several(np.array([1e-200] * 10))[0] == pytest.approx(1e-199)
    assert statistics.least_of_several(np.array([math.nan, 0.2, 0.1])) == pytest.approx(1 - 0.9**2)
    assert statistics.least_of_several(np.array([math.nan])) == 1


def test_cauchy() -> None:
    assert statistics.cauchy([0.03]) == pytest.approx(0.03)
    assert statistics.cauchy([0.02, 0.02, 0.02]) == pytest.approx(0.02)
    assert statistics.cauchy([1e-200, 0.5]) == pytest.approx(2e-200)
    assert statistics.cauchy([0.01, math.nan]) == pytest.approx(0.01)
    assert statistics.cauchy([0.0, 1.0]) < 1e-290
    assert math.isnan(statistics.cauchy([math.nan]))


def test_what_does_not_accuse_does_not_excuse() -> None:
    assert statistics.cauchy([0.01, 1.0]) == statistics.cauchy([0.01, 0.5]) == pytest.approx(0.02, rel=1e-2)
    assert statistics.cauchy([0.9]) == 0.5


def test_the_tail_of_a_sum_is_that_of_sums_drawn() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, (400_000, 4))
    sums = np.maximum(0, -np.log(2 * p)).sum(1)
    for total in (0.5, 2.0, 5.0, 8.0):
        assert statistics.sum_tail(total, 4) == pytest.approx(float((sums >= total).mean()), rel=0.1)
    assert statistics.sum_tail(0, 4) == 1
    assert statistics.sum_tail(3.0, 1) == pytest.approx(math.exp(-3) / 2)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 50, 0, 0.0711), (0, 100, 0, 0.0362), (5, 10, 0.1871, 0.8129), (50, 50, 0.9289, 1)],
)
def test_clopper_pearson(hits: int, count: int, low: float, high: float) -> None:
    assert statistics.clopper_pearson(hits, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("hits", "count"), [(1, 9), (17, 40), (1, 5000), (299, 300)])
def test_clopper_pearson_by_exact_sums(hits: int, count: int) -> None:
    low, high = statistics.clopper_pearson(hits, count)
    assert 1 - coins(hits - 1, count, low) == pytest.approx(0.025, rel=1e-9)
    assert coins(hits, count, high) == pytest.approx(0.025, rel=1e-9)


def coins(most: int, count: int, share: float) -> float:
    """The probability of so many heads at most, without rounding until the end."""
    p = Fraction(share)
    return float(sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(most + 1)))


def test_clopper_pearson_of_nothing() -> None:
    assert statistics.clopper_pearson(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="6 hits of 5"):
        statistics.clopper_pearson(6, 5)


def test_mcnemar() -> None:
    before = [True] * 10 + [True] * 8 + [False] * 2
    after = [True] * 10 + [False] * 8 + [True] * 2
    assert statistics.mcnemar(before, after) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert statistics.mcnemar(before, before) == 1
    many = [True] * 600 + [False] * 700  # too many for sums of whole numbers
    assert statistics.mcnemar(many, [not right for right in many]) == pytest.approx(0.00603, abs=2e-5)
    far = statistics.mcnemar([True] * 900, [False] * 900)
    assert far == pytest.approx(2 * 0.5**900, rel=1e-9), "relative precision far out in the tail"


def test_concentration() -> None:
    maps = np.zeros((3, 10, 10))
    maps[0, 0, 0] = 4
    maps[1] = 1
    assert statistics.concentration(maps, 0.05).tolist() == pytest.approx([1, 0.05, 0])


def test_agreement() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((1, 8, 8))
    assert statistics.agreement(np.repeat(one, 5, 0)) == pytest.approx(1)
    assert abs(statistics.agreement(rng.random((40, 8, 8)))) < 0.05
    assert statistics.agreement(np.zeros((5, 8, 8))) == 0


def test_what_needs_no_figure_from_scipy_does_not_import_it() -> None:
    """It takes longer than `bdscan --help` does."""
    code = "import sys, bdscan.cli, bdscan.verdict.judge; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
