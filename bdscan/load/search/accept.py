"""Whether the best structure is the file's: right often enough, its norms at home, and no rival as good."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bdscan.load.assembly.choose import more_often
from bdscan.load.search.infer import Tried

_MIN_SHARE = 1 / 3  # of the way from chance to always right: what near misses reach
_MIN_SHARE_REORDERED = 0.85  # where the classes are renamed too: on easy images, nets of another task reach 0.75
_LUCK = 1e-3  # probability that the best of as many nets that are no better than that does so well
_MAX_DRIFT = 0.5  # deviations that the norms' inputs may lie off, on average
_SAME = 0.95  # two structures that agree on so many answers are the same for our purposes
_MIN_SIGMA = 3.0  # by which a rival is beaten in how little the labels are expected: sharper than accuracy with two


@dataclass(frozen=True, eq=False)
class Judgement:
    """The winner, and what speaks against it."""

    winner: Tried
    rivals: tuple[Tried, ...]  # as good, with other answers
    beaten: tuple[Tried, ...]
    sizes: tuple[Tried, ...]  # with nearly the same answers for images of another size
    refusal: str = ""


def judged(contenders: Sequence[Tried], is_own_size: Callable[[Tried], bool], classes: int, count: int) -> Judgement:
    """The first of the contenders, all of which were asked for all images, or the first for images of their own size
    where the other is not right more often; of `count` structures in all."""
    winner = contenders[0]
    own = next(filter(is_own_size, contenders), winner)
    winner = winner if is_own_size(winner) or _more_often_right(winner, own) else own
    others: dict[object, Tried] = {}
    for other in contenders:
        if _kind(other) != _kind(winner):
            others.setdefault(_kind(other), other)
    alike = [other for other in others.values() if agreement(winner, other) >= _SAME]
    different = [other for other in others.values() if other not in alike]
    rivals = [other for other in different if not _beats(winner, other)]
    beaten = [other for other in different if other not in rivals]
    sizes = {other.structure.schedule.shape: other for other in reversed(alike)}
    sizes.pop(winner.structure.schedule.shape, None)
    return Judgement(winner, tuple(rivals), tuple(beaten), tuple(sizes.values()), _refusal(winner, classes, count))


def _kind(tried: Tried) -> object:
    return tried.structure.plan, tried.structure.schedule.shape


def _refusal(winner: Tried, classes: int, count: int) -> str:
    accuracy, images = winner.accuracy, len(winner.labels)
    commonest = float(winner.labels.bincount().max()) / images  # what always gives one answer is right so often
    chance = max(1 / classes, commonest)
    bar = chance + (_MIN_SHARE if winner.order is None else _MIN_SHARE_REORDERED) * (1 - chance)
    tries = math.log(count) + (math.lgamma(classes + 1) if winner.order is not None else 0.0)
    if accuracy <= bar or images * _divergence(accuracy, bar) < tries - math.log(_LUCK):
        return (
            f"the best is right about {accuracy:.0%} of {images} images, too few to tell it from chance and near misses"
        )
    if winner.trial.drift > _MAX_DRIFT:
        return f"in the best the norms are {winner.trial.drift:.1f} deviations off what they were trained on"
    return ""


def _divergence(share: float, truth: float) -> float:
    """How unlikely such a share is, in nats an image: Chernoff's bound."""
    sides = ((share, truth), (1 - share, 1 - truth))
    return sum(seen * math.log(seen / real) for seen, real in sides if seen > 0)


def _more_often_right(one: Tried, other: Tried) -> bool:
    """Each by the labels in its own order of classes."""
    return more_often(*(each.trial.answers == each.labels for each in (one, other)))


def _beats(winner: Tried, other: Tried) -> bool:
    """Whether the norms or, if it isn't the odder one, the images tell them apart beyond chance."""
    if other.further_off(winner):
        return True
    if other.plainer_than(winner):
        return False
    if _more_often_right(winner, other):
        return True
    gain = other.trial.surprises - winner.trial.surprises
    return float(gain.mean()) > _MIN_SIGMA * float(gain.std()) / math.sqrt(len(gain))


def agreement(one: Tried, other: Tried) -> float:
    return float((one.trial.answers == other.trial.answers).float().mean())
