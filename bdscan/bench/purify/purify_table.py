"""The figures of `bdscan bench purify` as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bdscan.bench.labels import Kind
from bdscan.bench.purify.purify_rows import OBEYS, Cured, Pair, Summary, summaries
from bdscan.bench.tables.grid import NOTHING, Grid, figure, percent
from bdscan.bench.tables.metrics import Share

SCHEMA = "bdscan.bench.purify/1"


def grids(rows: Sequence[Cured]) -> list[Grid]:
    """All tables, for people."""
    found = [_models(rows), _methods(summaries(rows))]
    apart = dict.fromkeys(row.label.name for row in rows if row.label.kind is Kind.APART)
    if apart:
        body = tuple((name, _half(rows, name)) for name in apart)
        found.append(Grid("Not counted: the attack half worked, or nobody measured it", ("model", "success"), body))
    return found


def _half(rows: Sequence[Cured], name: str) -> str:
    return percent(next(row.label.success for row in rows if row.label.name == name))


def _models(rows: Sequence[Cured]) -> Grid:
    columns = ("model", "counts as", "trigger", "method", "images", "ACC", "ACC after", "ASR", "ASR after", "RA after")
    more = ("DER", "seconds", "in all", "verdict", "verdict after", "checks failed")
    return Grid("Each model, in per cent before and after", (*columns, *more), tuple(_model(row) for row in rows))


def _model(row: Cured) -> tuple[str, ...]:
    rate = f" {row.label.rate:.1%}" if row.label.attack and row.label.rate else ""
    settled = f" ({row.chosen})" if row.chosen not in (None, row.method) else ""
    first, second = row.verdict or (NOTHING, NOTHING)
    said = f"failed: {row.failure}" if row.failure else f"refused: {row.refused}" if row.refused else ""
    return (
        row.label.name,
        row.label.kind.value,
        f"{row.label.family}{rate}",
        f"{row.method}{settled}",
        _images(row.images),
        *_before_and_after(row.accuracy),
        *_before_and_after(row.success),
        percent(row.recovered[1] if row.recovered else None),
        figure(row.der),
        figure(row.seconds, digits=0),
        figure(row.seconds_in_all, digits=0),
        first,
        second,
        said or ", ".join(dict.fromkeys(row.failed_checks)) or NOTHING,
    )


def _methods(found: Sequence[Summary]) -> Grid:
    columns = ("method", "images", "backdoored", "ASR after", "worst ASR", "ACC lost", "worst loss", "DER", "verified")
    more = (f"of them ASR > {OBEYS:.0%}", "clean nets", "ACC lost there", "worst there", "verified there", "seconds")
    body = tuple(_method(summary) for summary in found)
    return Grid("Each method: mean and worst, in per cent", (*columns, *more, "refused", "failed"), body)


def _method(summary: Summary) -> tuple[str, ...]:
    return (
        summary.method,
        _images(summary.images),
        str(summary.backdoored),
        *_before_and_after(summary.success),
        *_before_and_after(summary.lost),
        figure(summary.der),
        _of(summary.verified),
        _of(summary.deceived),
        str(summary.controls),
        *_before_and_after(summary.lost_on_controls),
        _of(summary.verified_controls),
        figure(summary.seconds, digits=0),
        str(summary.refused),
        str(summary.failed),
    )


def _before_and_after(pair: Pair | None) -> tuple[str, str]:
    return (NOTHING, NOTHING) if pair is None else (percent(pair[0]), percent(pair[1]))


def _images(images: int | None) -> str:
    return "all" if images is None else str(images)


def _of(share: Share) -> str:
    return f"{share.hits} of {share.count}" if share.count else NOTHING


def document(rows: Sequence[Cured], said: str) -> dict[str, Any]:
    """All figures, for programs: shares, not per cent."""
    return {
        "schema": SCHEMA,
        "command": said,
        "models": [_model_values(row) for row in rows],
        "methods": [_method_values(summary) for summary in summaries(rows)],
    }


def _model_values(row: Cured) -> dict[str, Any]:
    label = {**vars(row.label), "model": str(row.label.model), "kind": row.label.kind.value}
    return {**vars(row), "label": label, "lost": row.lost, "verified": row.verified}


def _method_values(summary: Summary) -> dict[str, Any]:
    shares = {name: vars(value) for name, value in vars(summary).items() if isinstance(value, Share)}
    return {**vars(summary), **shares}
