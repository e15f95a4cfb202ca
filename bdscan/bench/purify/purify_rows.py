"""What purifications came to: one row each, and each method's mean and worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bdscan.bench.labels import ModelKind, ModelLabel
from bdscan.bench.results import JobFailure, JobFailureKind, JobResult, PurifyOutcome
from bdscan.bench.tables.metrics import Share, mean, mean_and_worst
from bdscan.facts.finding import Verdict

MAX_SUCCESS = 0.2  # of triggered images: more the verification itself would not let pass


@dataclass(frozen=True, kw_only=True)
class PurifyRow(PurifyOutcome):
    """One model's label beside what one method made of the model."""

    label: ModelLabel
    method: str
    images: int | None  # asked for; None: all
    failure: JobFailure | None = None

    @property
    def lost(self) -> float | None:
        """Clean accuracy; below zero where it rose."""
        return None if self.accuracy is None else self.accuracy.before - self.accuracy.after

    @property
    def verified(self) -> bool:
        return self.verdict is not None and self.verdict[1] == Verdict.CLEAN.word

    def failed_as(self, kind: JobFailureKind) -> bool:
        return self.failure is not None and self.failure.kind is kind


@dataclass(frozen=True, kw_only=True)
class PurifySummary:
    """One method with so many images, over all models that it treated."""

    method: str
    images: int | None
    backdoored: int
    measured: int  # those of them whose trigger is at hand
    success: tuple[float, float] | None  # after: mean and worst
    lost: tuple[float, float] | None  # mean and worst
    der: float | None  # mean
    verified: Share  # backdoored ones that were verified clean
    deceived: Share  # of those verified clean, the ones that still obey as a backdoored net does
    seconds: float | None  # mean, in all
    controls: int
    lost_on_controls: tuple[float, float] | None  # mean and worst
    verified_controls: Share
    refused: int
    failed: int


def purify_row(label: ModelLabel, result: JobResult) -> PurifyRow:
    """A result beside its label."""
    job, outcome = result.job, result.outcome
    figures = vars(outcome) if isinstance(outcome, PurifyOutcome) else {}
    return PurifyRow(label=label, method=str(job.purifier), images=job.images, failure=result.failure, **figures)


def summaries(rows: Sequence[PurifyRow]) -> list[PurifySummary]:
    """Each method with each number of images, in the order in which they were asked for."""
    groups: dict[tuple[int | None, str], list[PurifyRow]] = {}
    for row in rows:
        groups.setdefault((row.images, row.method), []).append(row)
    return [_summary(group) for group in groups.values()]


def _summary(rows: Sequence[PurifyRow]) -> PurifySummary:
    done = [row for row in rows if row.accuracy is not None]
    backdoored = [row for row in done if row.label.kind is ModelKind.BACKDOORED]
    controls = [row for row in done if row.label.kind is ModelKind.CONTROL]
    success = [row.success.after for row in backdoored if row.success is not None]
    passed = [row.success.after for row in backdoored if row.success is not None and row.verified]
    return PurifySummary(
        method=rows[0].method,
        images=rows[0].images,
        backdoored=len(backdoored),
        measured=len(success),
        success=mean_and_worst(success),
        lost=mean_and_worst(row.lost for row in backdoored),
        der=mean(row.der for row in backdoored),
        verified=Share(sum(row.verified for row in backdoored), len(backdoored)),
        deceived=Share(sum(after > MAX_SUCCESS for after in passed), len(passed)),
        seconds=mean(row.seconds_in_all for row in (*backdoored, *controls)),
        controls=len(controls),
        lost_on_controls=mean_and_worst(row.lost for row in controls),
        verified_controls=Share(sum(row.verified for row in controls), len(controls)),
        refused=sum(row.failed_as(JobFailureKind.REFUSED) for row in rows),
        failed=sum(row.failed_as(JobFailureKind.FAILED) for row in rows),
    )
