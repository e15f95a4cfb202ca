"""What came of a job, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bdscan.bench.labels import ModelLabel
from bdscan.facts.finding import Verdict

if TYPE_CHECKING:
    from bdscan.bench.workers.job import Json

VERDICT, P_VALUE, CLEANSE = "verdict", "p-value", "neural cleanse"  # the measures beside the probes


@dataclass(frozen=True)
class JobFailure:
    """Why there are no figures, in one sentence."""

    message: str
    refused: bool = False  # the method has nothing to go by: the same answer next time; else the next call tries again

    def __str__(self) -> str:
        return f"{'refused' if self.refused else 'failed'}: {self.message}"


class BeforeAfter(NamedTuple):
    """A share before and after a purification."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What tables show of the job that was asked for."""

    name: str
    method: str
    model: Path
    seed: int
    purifier: str | None = None
    trainer: str | None = None
    images: int | None = None
    plant: str | None = None
    settings: tuple[str, ...] = ()  # of the plant or the purifier
    rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DetectOutcome:
    """What `inspect`, or the baseline, made of a model."""

    flagged: bool = False  # an alarm
    verdict: Verdict | None = None
    target: int | None = None  # the class named
    passes: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)  # a measure's, large is bad
    failures: Mapping[str, str] = field(default_factory=dict)  # a probe's
    probe_seconds: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, list[float]] = field(default_factory=dict)  # one score a class, or one in all
    sha256: str | None = None
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class PlantOutcome:
    """The net that was trained."""

    label: ModelLabel
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PurifyOutcome:
    """What a purification came to; figures are shares, not per cent."""

    trigger: str | None = None  # None where nobody has it, and then `success`, `recovered` and `der` are None too
    target: int | None = None
    accuracy: BeforeAfter | None = None
    success: BeforeAfter | None = None
    recovered: BeforeAfter | None = None
    der: float | None = None
    seconds: float | None = None  # of the purification alone
    seconds_in_all: float | None = None  # with the probes before and the verification after
    verdict: tuple[str, str] | None = None
    failed_checks: tuple[str, ...] = ()
    chosen: str | None = None  # the method that `auto` settled on
    measured_on: int = 0  # images


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """What a training came to."""

    accuracy: float
    success: float | None
    isolated: int | None  # None where the method isolates nothing
    precision: float | None
    recall: float | None
    p_value: float | None  # of the isolation
    verdict: str
    seconds: float


Outcome = DetectOutcome | PlantOutcome | PurifyOutcome | TrainOutcome


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """One result file: what was asked, and what came of it or why nothing did."""

    key: str
    job: JobRecord
    command: str
    seconds: float
    failure: JobFailure | None
    outcome: Outcome | None
    versions: Mapping[str, str]
    raw: Json = field(compare=False, repr=False)  # as it stands in the file
