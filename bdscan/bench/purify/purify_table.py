"""What purifications came to, and each method's mean and worst: as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bdscan.bench.labels import ModelKind, ModelLabel, label_figures
from bdscan.bench.results import JobFailure, JobResult, PurifyOutcome
from bdscan.bench.tables.grid import NOTHING, Grid, count, figure, percent, percents
from bdscan.bench.tables.metrics import Share, mean, mean_and_worst
from bdscan.bench.workers.job import Json
from bdscan.facts.finding import Verdict

SCHEMA = "bdscan.bench.purify/1"
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
    failures = [row.failure for row in rows if row.failure is not None]
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
        refused=sum(failure.refused for failure in failures),
        failed=sum(not failure.refused for failure in failures),
    )


def grids(rows: Sequence[PurifyRow]) -> list[Grid]:
    """All tables, for people."""
    tables = [_models(rows), _methods(summaries(rows))]
    apart = {row.label.name: row.label.success for row in rows if row.label.kind is ModelKind.APART}
    if apart:
        body = tuple((name, percent(success)) for name, success in apart.items())
        tables.append(Grid("Not counted: the attack half worked, or nobody measured it", ("model", "success"), body))
    return tables


def _models(rows: Sequence[PurifyRow]) -> Grid:
    columns = ("model", "counts as", "trigger", "method", "images", "ACC", "ACC after", "ASR", "ASR after", "RA after")
    more = ("DER", "seconds", "in all", "verdict", "verdict after", "checks failed")
    return Grid("Each model, in per cent before and after", (*columns, *more), tuple(_model(row) for row in rows))


def _model(row: PurifyRow) -> tuple[str, ...]:
    rate = f" {row.label.rate:.1%}" if row.label.attack and row.label.rate else ""
    settled = f" ({row.chosen})" if row.chosen not in (None, row.method) else ""
    first, second = row.verdict or (NOTHING, NOTHING)
    return (
        row.label.name,
        row.label.kind.value,
        f"{row.label.family}{rate}",
        f"{row.method}{settled}",
        count(row.images, "all"),
        *percents(row.accuracy),
        *percents(row.success),
        percent(row.recovered.after if row.recovered else None),
        figure(row.der),
        figure(row.seconds, digits=0),
        figure(row.seconds_in_all, digits=0),
        first,
        second,
        str(row.failure or ", ".join(dict.fromkeys(row.failed_checks)) or NOTHING),
    )


def _methods(summed: Sequence[PurifySummary]) -> Grid:
    columns = ("method", "images", "backdoored", "ASR after", "worst ASR", "ACC lost", "worst loss", "DER", "verified")
    more = (
        f"of them ASR > {MAX_SUCCESS:.0%}",
        "clean nets",
        "ACC lost there",
        "worst there",
        "verified there",
        "seconds",
    )
    body = tuple(_method(summary) for summary in summed)
    return Grid("Each method: mean and worst, in per cent", (*columns, *more, "refused", "failed"), body)


def _method(summary: PurifySummary) -> tuple[str, ...]:
    return (
        summary.method,
        count(summary.images, "all"),
        str(summary.backdoored),
        *percents(summary.success),
        *percents(summary.lost),
        figure(summary.der),
        _of(summary.verified),
        _of(summary.deceived),
        str(summary.controls),
        *percents(summary.lost_on_controls),
        _of(summary.verified_controls),
        figure(summary.seconds, digits=0),
        str(summary.refused),
        str(summary.failed),
    )


def _of(share: Share) -> str:
    return f"{share.hits} of {share.count}" if share.count else NOTHING


def figures(rows: Sequence[PurifyRow], command: str) -> Json:
    """All figures, for programs: shares, not per cent."""
    return {
        "schema": SCHEMA,
        "command": command,
        "models": [_row_json(row) for row in rows],
        "methods": [_summary_json(summary) for summary in summaries(rows)],
    }


def _row_json(row: PurifyRow) -> Json:
    failed = None if row.failure is None else row.failure.message
    refused = None
    if row.failure is not None and row.failure.refused:
        failed, refused = None, failed
    kept = {key: value for key, value in vars(row).items() if key not in ("trigger", "target")}
    own = {"label": label_figures(row.label), "failure": failed, "refused": refused}
    return {**kept, **own, "lost": row.lost, "verified": row.verified}


def _summary_json(summary: PurifySummary) -> Json:
    shares = {name: vars(value) for name, value in vars(summary).items() if isinstance(value, Share)}
    return {**vars(summary), **shares}
