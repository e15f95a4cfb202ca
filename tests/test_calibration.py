"""P-values against clean reference nets, and how those are summarised."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import digamma, polygamma

from bdscan.bench.detect.calibrate import CleanNet, inverse_trigamma, judge_by_others, spread, stretch, summarise, write
from bdscan.facts.finding import Verdict
from bdscan.verdict import calibration
from bdscan.verdict.calibration import Spread, moderated
from bdscan.verdict.statistics import leave_one_out


def test_without_a_prior_it_is_the_leave_one_out_t() -> None:
    scores = np.array([0.1, 0.3, -0.2, 0.05, 1.9, 0.2])
    assert moderated(scores, None) == pytest.approx(leave_one_out(scores))


def test_a_strong_prior_makes_it_a_z_test() -> None:
    scores = np.array([3.0, *np.linspace(-0.01, 0.01, 9)])
    p = moderated(scores, Spread(1.0, 1e6))[0]
    assert p == pytest.approx(0.5 * math.erfc(3 / math.sqrt(1 + 1 / 9) / math.sqrt(2)), rel=1e-3)


def test_a_prior_keeps_a_small_spread_from_accusing() -> None:
    scores = np.array([0.1, *np.linspace(-0.01, 0.01, 9)])
    assert moderated(scores, None)[0] < 1e-6
    assert moderated(scores, Spread(0.3, 10))[0] > 0.2


def test_with_few_classes_a_prior_from_ten_does_not_decide_alone() -> None:
    """Ships, planes, cars and trucks: of four clean classes one is naturally far easier by lines than the others."""
    four = np.array([1.68, 1.79, 2.51, 3.85])
    assert moderated(four, Spread(0.36, 27))[3] == pytest.approx(moderated(four, None)[3])
    ten = np.array([*four, 1.7, 1.8, 1.9, 2.1, 2.0, 1.75])
    assert moderated(ten, Spread(0.36, 27))[3] < moderated(ten, None)[3] * 10 < 0.01


def test_scores_that_are_no_numbers_are_left_out() -> None:
    p = moderated(np.array([math.nan, 0.1, 0.2, 0.3, 5.0]), Spread(0.2, 10))
    assert math.isnan(p[0])
    assert p[4] < 0.01
    assert np.isnan(moderated(np.array([1.0, 2.0, 3.0]), Spread(0.2, 10))).all()


def test_the_gamma_functions() -> None:
    assert digamma(1) == pytest.approx(-0.5772156649, abs=1e-8)
    assert polygamma(1, 1) == pytest.approx(math.pi**2 / 6, abs=1e-7)
    assert inverse_trigamma(polygamma(1, 3.7)) == pytest.approx(3.7)
    assert inverse_trigamma(1e-9) == pytest.approx(1e6)


def test_the_spread_of_nets_alike_is_found_again() -> None:
    rng = np.random.default_rng(0)
    sd, freedom = spread(rng.normal(0, 0.3, (200, 10)).tolist())
    assert sd == pytest.approx(0.3, rel=0.05)
    assert freedom > 20


def test_nets_that_differ_give_a_prior_with_little_say() -> None:
    rng = np.random.default_rng(0)
    nets = [rng.normal(0, scale, 10).tolist() for scale in np.exp(rng.normal(-1, 1, 100))]
    assert spread(nets)[1] < 5


def test_it_is_calibrated_where_classes_are_alike() -> None:
    """The share of clean nets called suspicious at 5 % over all classes is 5 %, with ten classes and a fitted prior."""
    rng = np.random.default_rng(1)
    alarms = [10 * moderated(rng.normal(0, 0.3, 10), Spread(0.3, 20)).min() < 0.05 for _ in range(1000)]
    assert 0.02 < np.mean(alarms) < 0.08


def net(name: str) -> CleanNet:
    return CleanNet(name=name, sha256=None, accuracy=None, scores={})


def test_what_was_not_measured_again_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "reference.json"
    write(path, {"margin": rng.normal(0, 1, (4, 10)).tolist(), "level": [[0.1], [0.2], [0.4]]}, [net("a")])
    write(path, {"noise": rng.normal(0, 1, (4, 10)).tolist()}, [net("b")])
    told = json.loads(path.read_text())["statistics"]
    assert set(told) == {"margin", "noise", "level"}
    assert told["level"]["height"]["mean"] == pytest.approx(0.2333, abs=1e-4)
    assert summarise({"few": [[1.0, 2.0, 3.0]] * 2}) == {}


def test_the_shipped_file_knows_every_statistic_in_use() -> None:
    for name in ("head.quiet", "margin", "noise", *(f"inversion.{form}" for form in ("patch", "smooth", "warp"))):
        assert calibration.spread(name) is not None, name
    assert calibration.p_height("margin.level", 10.0) is not None
    assert calibration.p_height("no such statistic", 1.0) is None


def test_no_reference_net_is_rarer_than_their_number_allows() -> None:
    rng = np.random.default_rng(2)
    nets = rng.normal(0, 0.2, (15, 10))
    nets[3, 4] = 2.5  # one clean net with an outlier that Student's t would never believe
    found = summarise({"noise": nets.tolist()})["noise"]["spread"]
    assert found["heavy"] > 1.5
    prior = Spread(found["sd"], found["freedom"], found["heavy"])
    assert 10 * moderated(nets[3], prior).min() >= 1 / 16.1


def test_each_net_is_judged_by_the_others() -> None:
    rng = np.random.default_rng(3)
    draw: Callable[[], list[float]] = lambda: rng.normal(0, 0.2, 10).tolist()  # noqa: E731
    nets = [{"margin": draw(), "head.quiet": draw()} for _ in range(8)]
    nets[0]["margin"][6] = 3.0
    said = judge_by_others(nets)
    assert said[0].target == 6
    assert said[0].verdict > Verdict.CLEAN
    assert all(each.verdict is Verdict.CLEAN for each in said[1:])


def test_a_net_unlike_the_reference_nets_is_measured_by_its_own_spread() -> None:
    scores = np.array([1.5, *np.linspace(-1, 1, 9)])
    assert moderated(scores, Spread(0.1, 30))[0] == pytest.approx(moderated(scores, None)[0], rel=1e-6)


def test_families_that_see_the_same_stretch_the_sums() -> None:
    rng = np.random.default_rng(5)

    def nets(alike: float) -> list[dict[str, list[float]]]:
        drawn = []
        for _ in range(25):
            shared, own = rng.normal(0, 0.3, 10), rng.normal(0, 0.3, (3, 10))
            scores = alike * shared + math.sqrt(1 - alike**2) * own
            drawn.append(dict(zip(("margin", "head.quiet", "inversion.patch"), scores.tolist(), strict=True)))
        return drawn

    assert stretch(nets(0.0), folds=5) < 1.2
    assert stretch(nets(1.0), folds=5) > 1.3
