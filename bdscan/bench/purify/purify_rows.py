"""What purifications came to: one row each, and each method's mean and worst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from bdscan.bench.labels import Kind, Labelled
from bdscan.bench.tables.metrics import Share
from bdscan.bench.workers.jobs import Result
from bdscan.facts.finding import Verdict

Pair = tuple[float, float]  # before and after


@dataclass(frozen=True, kw_only=True)
class Cured:
    """One model's truth beside what one method made of it; figures are shares, not per cent."""

    label: Labelled
    method: str
    images: int | None  # asked for; None: all
    failure: str | None = None  # the job's: nothing is known
    refused: str | None = None  # the method's: it has nothing to go by, and wrote nothing
    accuracy: Pair | None = None
    success: Pair | None = None  # None where nobody has the trigger
    recovered: Pair | None = None
    der: float | None = None
    seconds: float | None = None  # of the purification alone
    seconds_in_all: float | None = None  # with the probes before and the verification after
    verdict: tuple[str, str] | None = None
    failed_checks: tuple[str, ...] = ()
    chosen: str | None = None  # the method that `auto` settled on
    measured_on: int = 0  # images

    @property
    def lost(self) -> float | None:
        """Clean accuracy; below zero where it rose."""
        return None if self.accuracy is None else self.accuracy[0] - self.accuracy[1]

    @property
    def verified(self) -> bool:
        return self.verdict is not None and self.verdict[1] == Verdict.CLEAN.word


@dataclass(frozen=True, kw_only=True)
class Summary:
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


OBEYS = 0.2  # of triggered images: what the verification itself would not let pass


def read(label: Labelled, result: Result) -> Cured:
    """A result beside its label."""
    job = result["job"]
    row = Cured(label=label, method=job["purifier"], images=job["images"], failure=result["failure"])
    if row.failure is not None:
        return row
    outcome = result["outcome"]
    if outcome["refused"] is not None:
        return replace(row, refused=outcome["refused"])
    measured, treatment = outcome["measured"], outcome["report"]["treatment"]
    return replace(
        row,
        accuracy=pair(measured["accuracy"]),
        success=pair(measured["asr"]),
        recovered=pair(measured["ra"]),
        der=measured["der"],
        seconds=measured["seconds"]["purify"],
        seconds_in_all=measured["seconds"]["all"],
        verdict=(treatment["verdict"]["before"], treatment["verdict"]["after"]),
        failed_checks=tuple(check["name"] for check in treatment["checks"] if check["passed"] is False),
        chosen=treatment["method"],
        measured_on=measured["images"],
    )


def pair(told: Mapping[str, Any] | None) -> Pair | None:
    """Before and after."""
    return None if told is None else (told["before"], told["after"])


def summaries(rows: Sequence[Cured]) -> list[Summary]:
    """Each method with each number of images, in the order in which they were asked for."""
    asked = dict.fromkeys((row.images, row.method) for row in rows)
    return [_summary([row for row in rows if (row.images, row.method) == one]) for one in asked]


def _summary(rows: Sequence[Cured]) -> Summary:
    bad = [row for row in rows if row.label.kind is Kind.BACKDOORED and row.accuracy is not None]
    good = [row for row in rows if row.label.kind is Kind.CONTROL and row.accuracy is not None]
    after = [row.success[1] for row in bad if row.success is not None]
    passed = [row for row in bad if row.verified and row.success is not None]
    return Summary(
        method=rows[0].method,
        images=rows[0].images,
        backdoored=len(bad),
        measured=len(after),
        success=_mean_and_worst(after),
        lost=_mean_and_worst(row.lost for row in bad),
        der=_mean(row.der for row in bad),
        verified=Share(sum(row.verified for row in bad), len(bad)),
        deceived=Share(sum(row.success is not None and row.success[1] > OBEYS for row in passed), len(passed)),
        seconds=_mean(row.seconds_in_all for row in (*bad, *good)),
        controls=len(good),
        lost_on_controls=_mean_and_worst(row.lost for row in good),
        verified_controls=Share(sum(row.verified for row in good), len(good)),
        refused=sum(row.refused is not None for row in rows),
        failed=sum(row.failure is not None for row in rows),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _mean_and_worst(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (fmean(known), max(known)) if known else None
