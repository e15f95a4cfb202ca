"""What a scan can say: levels, findings, runs and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy would be a third of the time that `bdscan --help` takes
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any


class Level(IntEnum):
    """How strongly one finding speaks. A note never moves the verdict."""

    NOTE = 0
    SUSPECT = 1
    BACKDOOR = 2

    @property
    def word(self) -> str:
        return self.name.lower()


class Verdict(IntEnum):
    """Ordered by gravity; `inconclusive` is graver than `clean`, because clean is earned."""

    CLEAN = 0
    INCONCLUSIVE = 1
    SUSPICIOUS = 2
    BACKDOORED = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing a probe saw, with the number it was read from and the threshold it was read against.

    `arrays` holds the evidence a person can look at. Names with a meaning for reports:
    `scores` and `p_values` (one number a class), `mask` and `pattern` (a recovered trigger, HxW and HxWxC in [0, 1]),
    `change` (one that is added, HxWxC), `flow` (one that displaces, HxWx2, shares of the side), `room` (how large the
    trigger was allowed to be, in the unit of its form),
    `images` (N x H x W x C, uint8) beside `heat` (N x H x W in [0, 1]) or `stamped` (N x H x W x C, uint8),
    `norms` (channels x 3: the mean l-inf, l1 and l2 of each channel's map), `rise` (channels x 3: how far each rises
    with the trigger on, in standard deviations over clean images).
    """

    level: Level
    message: str  # one sentence, no full stop, literals in backticks
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    target: int | None = None
    layer: str | None = None
    channels: tuple[int, ...] = ()
    statistic: str | None = None  # the name under which `bdscan.verdict.calibration` knows how clean nets score
    form: str | None = None  # of the recovered trigger: a key of `bdscan.triggers.forms.FORMS`
    shown: bool = False  # a trigger was demonstrated on images it was not made from
    arrays: Mapping[str, Array] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One probe's turn: all it found, and why it stopped early if it did."""

    probe: str
    family: str = ""  # probes of one family look at the same thing, and do not corroborate one another
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    failure: str | None = None  # beside the findings, never in their place


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict, and the sentences it rests on."""

    verdict: Verdict
    p_value: float | None = None
    target: int | None = None
    reasons: tuple[str, ...] = ()
