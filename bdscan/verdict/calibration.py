"""What clean nets look like: the shipped statistics of reference nets, and p-values against them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bdscan.facts.evidence import Array
from bdscan.verdict.rules import MIN_OTHERS, MIN_SCORES, WIDER_P
from bdscan.verdict.statistics import student_tail

STATISTICS = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Spread:
    """How far the classes of one clean net lie apart in a log-scale statistic, and how alike nets are in that."""

    sd: float
    freedom: float
    heavy: float = (
        1.0  # how much wider the tail is than Student's: no reference net may be more surprising than 1 in n + 1
    )


@dataclass(frozen=True)
class Height:
    """Where a statistic of a whole net lies on clean nets."""

    mean: float
    sd: float
    nets: int

    def p(self, score: float) -> float:
        """How likely this score, or a larger one, is for one net more."""
        return student_tail((score - self.mean) / self._scale, self.nets - 1)

    def score_at(self, p: float) -> float:
        """The score that has this p."""
        from scipy.special import stdtrit

        return self.mean + self._scale * float(-stdtrit(self.nets - 1, p))

    @property
    def _scale(self) -> float:
        return self.sd * math.sqrt(1 + 1 / self.nets)


@cache
def _document() -> Any:
    return json.loads(STATISTICS.read_text(encoding="utf-8")) if STATISTICS.is_file() else {}


def _shipped() -> dict[str, dict[str, dict[str, float]]]:
    shipped: dict[str, dict[str, dict[str, float]]] = _document().get("statistics", {})
    return shipped


def stretch() -> float:
    """How much further than independent families would the sums over all families go on clean nets."""
    return float(_document().get("joint", {}).get("stretch", 1.0))


def spread(statistic: str) -> Spread | None:
    found = _shipped().get(statistic, {}).get("spread")
    return Spread(found["sd"], found["freedom"], found["heavy"]) if found else None


def height(statistic: str) -> Height | None:
    found = _shipped().get(statistic, {}).get("height")
    return Height(found["mean"], found["sd"], int(found["nets"])) if found else None


def p_values(statistic: str, scores: Array | Sequence[float]) -> Array:
    """How likely each class's score (large is suspicious) is beside the others': one p-value a class.

    A leave-one-out t-test whose variance is that of the other classes, shrunk towards what reference nets show
    (Smyth's moderated t, 2004): nine other classes alone say little about a spread, and by chance too small a one.
    """
    return moderated(scores, spread(statistic))


def moderated(scores: Array | Sequence[float], prior: Spread | None) -> Array:
    """The test behind `p_values`; without a prior the plain leave-one-out t. NaN: there is nothing to compare."""
    values = np.asarray(scores, dtype=float)
    p = np.full(len(values), np.nan)
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) < MIN_SCORES:
        return p
    least = 1e-12 * float(np.abs(values[finite]).max())
    for c in finite:
        others = values[finite[finite != c]]
        used = _Spread(float(others.var(ddof=1)), len(others) - 1).trusted(prior)
        scales = [math.sqrt(each.variance * (1 + 1 / len(others))) * (prior.heavy if prior else 1) for each in used]
        distance = float(values[c] - others.mean())
        tails = [
            student_tail(distance / scale, each.freedom)
            for each, scale in zip(used, scales, strict=True)
            if scale > least
        ]
        p[c] = max(tails, default=math.nan)
    return p


@dataclass(frozen=True)
class _Spread:
    """A variance, and how many degrees of freedom it rests on."""

    variance: float
    freedom: float

    def trusted(self, prior: Spread | None) -> list[_Spread]:
        """Shrunk towards the reference nets'; by itself too where the net is unlike them, and then the wider counts.

        It is where its classes are few, or lie further apart than those nets' do by chance.
        """
        if prior is None:
            return [self]
        widest = _widest(self.freedom, prior.freedom) * prior.sd**2
        alone = self.freedom + 1 < MIN_OTHERS or self.variance > widest
        return [self.shrunk(prior), *([self] if alone else [])]

    def shrunk(self, prior: Spread) -> _Spread:
        freedom = self.freedom + prior.freedom
        return _Spread((prior.freedom * prior.sd**2 + self.freedom * self.variance) / freedom, freedom)


@cache
def _widest(freedom: float, prior: float) -> float:
    """The ratio of variances that chance seldom exceeds."""
    from scipy.special import fdtri

    return float(fdtri(freedom, prior, 1 - WIDER_P))


def score_at(statistic: str, p: float) -> float | None:
    """The whole net's score that has this p among clean nets; None where nothing is shipped."""
    clean = height(statistic)
    return None if clean is None else clean.score_at(p)


def p_height(statistic: str, score: float) -> float | None:
    """How likely a whole net's score, or a larger one, is among clean nets; None where nothing is shipped."""
    clean = height(statistic)
    return None if clean is None or not math.isfinite(score) else clean.p(score)
