"""What a detector is worth: AUC, detection at a fixed false-alarm rate, and how sure one can be of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bdscan.verdict.statistics import clopper_pearson

Z95 = 1.959963984540054  # two-sided 95 % of a normal distribution


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    hits: int
    count: int

    @property
    def value(self) -> float | None:
        return self.hits / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, exact (Clopper-Pearson)."""
        return clopper_pearson(self.hits, self.count) if self.count else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that were measured."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def mean_and_worst(
    values: Iterable[float | None], worst: Callable[[Iterable[float]], float] = max
) -> tuple[float, float] | None:
    """Of those that were measured."""
    numbers = [value for value in values if value is not None]
    return (fmean(numbers), worst(numbers)) if numbers else None


def auc(bad: Sequence[float], good: Sequence[float]) -> float | None:
    """How often a backdoored net scores above a control; a tie counts half. None where one side is empty."""
    if not bad or not good:
        return None
    first, second = np.asarray(bad, dtype=float)[:, None], np.asarray(good, dtype=float)
    return float(((first > second) + 0.5 * (first == second)).mean())


def auc_interval(value: float, bad: int, good: int) -> tuple[float, float]:
    """95 % for an AUC from so many nets of either kind (Newcombe 2006, method 5).

    A bootstrap would call ten perfectly separated nets certain; this interval has a width there too.
    """
    return _bound(value, bad, good, 0.0), _bound(value, bad, good, 1.0)


def _bound(value: float, bad: int, good: int, end: float) -> float:
    """The AUC on that side which the observed one would be just within 95 % of."""
    inside, outside = value, end
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(middle - value) <= Z95 * math.sqrt(_variance(middle, bad, good)):
            inside = middle
        else:
            outside = middle
    return inside


def _variance(value: float, bad: int, good: int) -> float:
    """Hanley and McNeil's variance of an AUC, with the mean of the two numbers in both places."""
    mean = (bad + good) / 2
    spread = 2 * mean - 1 - (3 * mean - 3) / ((2 - value) * (1 + value))
    return value * (1 - value) * spread / (bad * good)


def tpr_at(bad: Sequence[float], good: Sequence[float], alarms: float) -> Share:
    """The backdoored nets that score above a threshold which at most that share of the controls exceeds."""
    if not good:
        return Share(0, 0)
    allowed = math.floor(alarms * len(good) + 1e-9)
    threshold = sorted(good, reverse=True)[min(allowed, len(good) - 1)]
    return Share(sum(score > threshold for score in bad), len(bad))
