"""What a finding can hold beside its sentence: measures, scores of classes, recovered triggers, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy would be a third of the time that `bdscan --help` takes
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any


class Direction(StrEnum):
    """On which side of its threshold a score is suspicious."""

    ABOVE = "above"
    BELOW = "below"  # as p-values are


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The number a finding was read from, beside the one it was read against, on one scale."""

    score: float
    threshold: float | None = None  # None: nothing is calibrated, the number is evidence only
    direction: Direction = Direction.ABOVE

    @property
    def crossed(self) -> bool:
        """Whether the score lies on the suspicious side."""
        if self.threshold is None:
            return False
        above = self.direction is Direction.ABOVE
        return self.score >= self.threshold if above else self.score <= self.threshold


def p_measure(p_value: float, threshold: float) -> Measure:
    """A p-value beside the level that it is held against."""
    return Measure(score=p_value, threshold=threshold, direction=Direction.BELOW)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassScores:
    """One number a class, large is suspicious; NaN where a class was not looked at."""

    scores: Array
    p_values: Array | None = None  # None: nothing is calibrated, the scores are evidence only
    margins: Array | None = None  # what the scores were made from, in the units of the net's logits
    triggers: Mapping[int, RecoveredTrigger] = field(default_factory=dict)  # of the classes that one was found for


@dataclass(frozen=True, slots=True, eq=False)
class MaskedPattern:
    """Pixels replaced: x * (1 - mask) + pattern * mask."""

    mask: Array  # height x width, in [0, 1]
    pattern: Array  # height x width x channels, in [0, 1]


@dataclass(frozen=True, slots=True, eq=False)
class AddedChange:
    """The same change added to every image."""

    change: Array  # height x width x channels


@dataclass(frozen=True, slots=True, eq=False)
class Displacement:
    """Pixels read somewhere else."""

    flow: Array  # height x width x 2, shares of the side


TriggerPixels = MaskedPattern | AddedChange | Displacement


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecoveredTrigger:
    """A trigger that a probe made or found."""

    pixels: TriggerPixels
    form: str | None = None  # a key of `bdscan.triggers.forms.FORMS`; None where it belongs to no form
    room: float | None = None  # how large it was allowed to be, in the unit of its form
    becomes: tuple[int, ...] = ()  # of one that relabels every class: the class that each becomes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """Images a person can look at: N x H x W x C, uint8."""

    images: Array
    stamped: Array | None = None  # the same images with the trigger on
    heat: Array | None = None  # N x H x W in [0, 1]: where the model looks
    place: Array | None = None  # H x W in [0, 1]: where the trigger changes the images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelNorms:
    """Channels x 3: l-inf, l1 and l2 of every channel's map."""

    norms: Array
    rise: Array | None = None  # how far each rises with the trigger on, in standard deviations over clean images


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedBackdoor:
    """A backdoor that the self-check planted in a copy of the net, and whether the probes detected it."""

    success: float  # on held-out images
    detected: bool
