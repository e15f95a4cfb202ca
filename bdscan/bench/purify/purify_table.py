"""The figures of `bdscan bench purify` as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence

from bdscan.bench.labels import ModelKind, label_figures
from bdscan.bench.purify.purify_rows import MAX_SUCCESS, PurifyRow, PurifySummary, summaries
from bdscan.bench.results import JobFailureKind
from bdscan.bench.tables.grid import NOTHING, Grid, count, figure, percent, percents
from bdscan.bench.tables.metrics import Share
from bdscan.bench.workers.job import Json

SCHEMA = "bdscan.bench.purify/1"


def grids(rows: Sequence[PurifyRow]) -> list[Grid]:
    """All tables, for people."""
    tables = [_models(rows), _methods(summaries(rows))]
    apart = dict.fromkeys(row.label.name for row in rows if row.label.kind is ModelKind.APART)
    if apart:
        body = tuple((name, _half(rows, name)) for name in apart)
        tables.append(Grid("Not counted: the attack half worked, or nobody measured it", ("model", "success"), body))
    return tables


def _half(rows: Sequence[PurifyRow], name: str) -> str:
    return percent(next(row.label.success for row in rows if row.label.name == name))


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
    failed, refused = (
        str(row.failure and row.failure.message) if row.failed_as(kind) else None for kind in JobFailureKind
    )
    kept = {key: value for key, value in vars(row).items() if key not in ("trigger", "target")}
    own = {"label": label_figures(row.label), "failure": failed, "refused": refused}
    return {**kept, **own, "lost": row.lost, "verified": row.verified}


def _summary_json(summary: PurifySummary) -> Json:
    shares = {name: vars(value) for name, value in vars(summary).items() if isinstance(value, Share)}
    return {**vars(summary), **shares}
