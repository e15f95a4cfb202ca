"""Whether the best structure is the file's: right often enough, its norms at home, and no rival as good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bdscan.load.search.infer import Tried

_MIN_SHARE = 1 / 3  # of the way from chance to always right
_LUCK = 3.0  # standard errors that the accuracy may lie above the truth
_MAX_DRIFT = 0.5  # deviations that the norms' inputs may lie off, on average
_SAME = 0.95  # two structures that agree on so many answers are the same for our purposes
_SETTLED_BY_DRIFT = 1.5  # times the drift of the winner: such a rival is none
_DRIFT_NOISE = 0.02  # of a hundred images
_MIN_SIGMA = 2.0  # by which a rival is beaten in accuracy
_MIN_SIGMA_SURPRISE = 3.0  # the same in how little the labels are expected: sharper, and so more is asked for


@dataclass(frozen=True, eq=False)
class Judgement:
    """The winner, and what speaks against it."""

    winner: Tried
    accuracy: float  # in the net's own order of classes
    rivals: tuple[Tried, ...]  # as good, with other answers
    beaten: tuple[Tried, ...]
    refusal: str = ""


def judged(contenders: Sequence[Tried], labels: Tensor, classes: int) -> Judgement:
    """The first of the contenders, all of which were asked for these images."""
    winner = contenders[0]
    others: dict[object, Tried] = {}
    for other in contenders:
        if other.structure.plan != winner.structure.plan:
            others.setdefault(other.structure.plan, other)
    different = [other for other in others.values() if agreement(winner, other) < _SAME]
    rivals = [other for other in different if not _beats(winner, other, labels)]
    beaten = [other for other in different if other not in rivals]
    accuracy = winner.accuracy
    refusal = _refusal(winner, accuracy, len(labels), classes)
    return Judgement(winner, accuracy, tuple(rivals), tuple(beaten), refusal)


def _refusal(winner: Tried, accuracy: float, count: int, classes: int) -> str:
    bar = 1 / classes + _MIN_SHARE * (1 - 1 / classes)
    if accuracy - _LUCK * math.sqrt(accuracy * (1 - accuracy) / count) < bar:
        return (
            f"the best is right about {accuracy:.0%} of {count} images, too few to tell it from chance and near misses"
        )
    if winner.trial.drift > _MAX_DRIFT:
        return f"in the best the norms are {winner.trial.drift:.1f} deviations off what they were trained on"
    return ""


def _beats(winner: Tried, other: Tried, labels: Tensor) -> bool:
    """Whether the images or the norms tell them apart beyond chance."""
    if other.trial.drift > _SETTLED_BY_DRIFT * winner.trial.drift + _DRIFT_NOISE:
        return True
    ours, theirs = winner.trial.answers == labels, other.trial.answers == labels
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if won > lost and (won - lost) ** 2 > _MIN_SIGMA**2 * (won + lost):
        return True
    gain = other.trial.surprises - winner.trial.surprises
    return float(gain.mean()) > _MIN_SIGMA_SURPRISE * float(gain.std()) / math.sqrt(len(gain))


def agreement(one: Tried, other: Tried) -> float:
    return float((one.trial.answers == other.trial.answers).float().mean())
