"""Outliers, p-values and intervals.

scipy is imported where it is used: many commands need none of it, and it takes longer to import than they take to run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bdscan.facts.evidence import Array
from bdscan.verdict.rules import MIN_SCORES, MOST

MAD_TO_SD = 1.4826  # of a normal distribution


def student_tail(t: float, freedom: float) -> float:
    """P(T >= t) for Student's t; keeps its relative precision far out in the tail."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def leave_one_out(scores: Array | Sequence[float], floor: float = 0.0) -> Array:
    """How likely each score is, or a larger one, if it were drawn like the others: one p-value a class.

    `floor` is the smallest spread to believe in; where the others have no spread at all there is nothing to
    measure against and p is 1, as it is with fewer than four scores or for a score that is not finite.
    """
    values = np.asarray(scores, dtype=float)
    p = np.ones(len(values))
    finite = np.flatnonzero(np.isfinite(values))
    count = len(finite)
    if count < MIN_SCORES:
        return p
    for c in finite:
        others = values[finite[finite != c]]
        spread = max(float(others.std(ddof=1)), floor)
        if spread > 1e-12 * float(np.abs(values[finite]).max()):
            t = (values[c] - others.mean()) / (spread * math.sqrt(1 + 1 / (count - 1)))
            p[c] = student_tail(float(t), count - 2)
    return p


def robust_z(scores: Array | Sequence[float]) -> Array:
    """Distance from the median in units of the spread (1.4826 x MAD); zero everywhere if all scores are equal."""
    values = np.asarray(scores, dtype=float)
    off = values - np.nanmedian(values)
    spread = MAD_TO_SD * np.nanmedian(np.abs(off))
    if spread == 0:  # more than half the scores are equal: fall back on the mean deviation
        spread = math.sqrt(math.pi / 2) * np.nanmean(np.abs(off))
    return off / spread if spread > 0 else np.zeros_like(off)


def of_several(p: Array) -> Array:
    """P-values adjusted for being several (Sidak 1967): each can be compared with the level itself. NaN stays NaN."""
    count = int(np.isfinite(p).sum())
    adjusted: Array = -np.expm1(count * np.log1p(-np.minimum(p, 1 - 1e-15)))
    return adjusted


def least_of_several(p: Array) -> float:
    """The smallest, adjusted for being several; 1 where none is known."""
    return float(np.nanmin(of_several(p))) if np.isfinite(p).any() else 1.0


def cauchy(p: Array | Sequence[float]) -> float:
    """One p-value from several that may depend on one another; NaN where none of them is a number."""
    values = np.asarray(p, dtype=float)
    values = np.clip(values[~np.isnan(values)], 1e-300, MOST)
    if not len(values):
        return math.nan
    # 1/tan(pi p) is tan(pi (0.5 - p)), but exact near 0.
    return math.atan2(1, float(np.mean(1 / np.tan(math.pi * values)))) / math.pi


def sum_tail(total: float, count: int) -> float:
    """How likely so many independent parts, each nothing or by an even chance exponential, come to this and more."""
    from scipy.special import gammaincc

    if total <= 0:
        return 1.0
    tails = [math.comb(count, k) * float(gammaincc(k, total)) for k in range(1, count + 1)]
    return float(sum(tails) / 2**count)


def clopper_pearson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """An interval for a share that holds at least as often as `level` says."""
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} hits of {count}")
    from scipy.special import betaincinv

    outside = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, outside)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - outside)) if hits < count else 1.0
    return low, high


def mcnemar(before: Array | Sequence[bool], after: Array | Sequence[bool]) -> float:
    """Two-sided exact p-value that two nets are equally often right on the same images."""
    from scipy.special import bdtr

    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, won = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))  # a fair coin's lower tail


def concentration(heat: Array, share: float = 0.05) -> Array:
    """The part of a map's heat that lies in its hottest positions (`share` of them, at least one), for each map."""
    flat = heat.reshape(len(heat), -1)
    top = max(1, round(share * flat.shape[1]))
    hottest = np.partition(flat, flat.shape[1] - top, axis=1)[:, -top:].sum(1)
    total = flat.sum(1)
    part: Array = np.divide(hottest, total, out=np.zeros(len(flat)), where=total > 0)
    return part


def agreement(maps: Array) -> float:
    """The mean correlation of all pairs of maps: 1 if all show the same places, 0 if they have nothing in common."""
    flat = maps.reshape(len(maps), -1).astype(float)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.sqrt((flat**2).sum(1))
    flat = flat[length > 0] / length[length > 0, None]
    count = len(flat)
    if count < 2:
        return 0.0
    return float(((flat.sum(0) ** 2).sum() - count) / (count * (count - 1)))


def two_way(values: Array, beside: Array, rounds: int = 30, cut: float = 1.5) -> Array:
    """What a row, a column and a second quantity do not explain of a square table; where it holds NaN, so does this.

    Huber's regression by reweighting: a few cells that stand out do not draw the fit to themselves.
    """
    rows, columns = np.nonzero(np.isfinite(values))
    count = len(values)
    left = np.full(values.shape, np.nan)
    if len(rows) <= 2 * count:  # as many unknowns: nothing would be left
        return left
    y, x = values[rows, columns], beside[rows, columns]
    spread = float(x.std())
    design = np.concatenate(
        [np.eye(count)[rows], np.eye(count)[columns], ((x - x.mean()) / (spread or 1.0))[:, None]], axis=1
    )
    weights = np.ones(len(y))
    for _ in range(rounds):
        root = np.sqrt(weights)[:, None]
        fitted = np.linalg.lstsq(design * root, y * root[:, 0], rcond=None)[0]
        error = y - design @ fitted
        scale = max(MAD_TO_SD * float(np.median(np.abs(error))), 1e-9)
        weights = np.minimum(1, cut * scale / np.maximum(np.abs(error), 1e-12))
    left[rows, columns] = error
    return left
