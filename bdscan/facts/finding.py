"""What a scan can say: levels, findings, runs and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from bdscan.facts.evidence import (
    ChannelNorms,
    ClassScores,
    Measure,
    Pictures,
    PlantedBackdoor,
    RecoveredTrigger,
)
from bdscan.facts.failure import Failure


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
    """One thing a probe saw, with the number it was read from and all that a person can look at."""

    level: Level
    message: str  # one sentence, no full stop, literals in backticks
    measure: Measure | None = None
    p_value: float | None = None
    target: int | None = None
    layer: str | None = None
    channels: tuple[int, ...] = ()
    statistic: str | None = None  # the name under which `bdscan.verdict.calibration` knows how clean nets score
    demonstrated: bool = False  # a trigger was shown to work on images it was not made from
    classes: ClassScores | None = field(default=None, compare=False)
    trigger: RecoveredTrigger | None = field(default=None, compare=False)
    pictures: Pictures | None = field(default=None, compare=False)
    norms: ChannelNorms | None = field(default=None, compare=False)
    planted: PlantedBackdoor | None = None

    @property
    def score(self) -> float | None:
        return None if self.measure is None else self.measure.score

    @property
    def threshold(self) -> float | None:
        return None if self.measure is None else self.measure.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One probe's turn: all it found, and why it stopped early if it did."""

    probe: str
    family: str = ""  # probes of one family look at the same thing, and do not corroborate one another
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None  # beside the findings, never in their place


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict, and the sentences it rests on."""

    verdict: Verdict
    p_value: float | None = None
    target: int | None = None
    reasons: tuple[str, ...] = ()
