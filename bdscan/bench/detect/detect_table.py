"""The figures of `bdscan bench detect` as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bdscan.bench.detect.accuracy import ALARMS, ALL, Row, Tally, rows, tallies
from bdscan.bench.detect.detect_rows import Seen
from bdscan.bench.tables import grid
from bdscan.bench.tables.grid import NOTHING, Grid, figure
from bdscan.bench.tables.metrics import Share
from bdscan.facts.finding import Verdict

SCHEMA = "bdscan.bench.detect/1"


def grids(seen: Sequence[Seen]) -> list[Grid]:
    """All tables, for people."""
    table = rows(seen)
    return [
        _measures(
            "Each measure over all triggers (1% false alarms of fewer than 100 controls: none)",
            [row for row in table if row.family == ALL],
        ),
        _families(table),
        _verdicts(tallies(seen)),
        _models(seen),
    ]


def _measures(title: str, table: Sequence[Row]) -> Grid:
    columns = (
        "measure",
        "backdoored",
        "controls",
        "failed",
        "AUC",
        *(f"found at {a:.0%} false alarms" for a in ALARMS),
    )
    return Grid(
        title,
        columns,
        tuple(
            (
                row.measure,
                str(row.backdoored),
                str(row.controls),
                str(row.failed),
                figure(row.auc, row.interval),
                *(grid.share(found) for found in row.found),
            )
            for row in table
        ),
    )


def _families(table: Sequence[Row]) -> Grid:
    families = list(dict.fromkeys(row.family for row in table))
    by = {(row.measure, row.family): row for row in table}
    names = list(dict.fromkeys(row.measure for row in table))
    body = tuple((name, *(figure(by[name, family].auc, digits=2) for family in families)) for name in names)
    return Grid("AUC of each measure over each trigger", ("measure", *families), body)


def _verdicts(found: Sequence[Tally]) -> Grid:
    words = [v.word for v in Verdict]
    columns = ("method, trigger", *words, "flagged", "target right", "seconds", "image passes")
    body = tuple(
        (
            f"{tally.method}, {tally.family}",
            *(str(tally.verdicts.get(word, NOTHING)) for word in words),
            grid.share(tally.flagged),
            grid.share(tally.named),
            figure(tally.seconds, digits=0),
            NOTHING if tally.passes is None else f"{tally.passes:,.0f}",
        )
        for tally in found
    )
    return Grid("Verdicts", columns, body)


def _models(seen: Sequence[Seen]) -> Grid:
    columns = ("model", "method", "counts as", "trigger", "success", "said", "target", "named", "seconds")
    return Grid("Each model", columns, tuple(_model(one) for one in seen))


def _model(one: Seen) -> tuple[str, ...]:
    said = f"failed: {one.failure}" if one.failure else one.verdict.word if one.verdict is not None else _flag(one)
    return (
        one.label.name,
        one.method,
        one.label.kind.value,
        one.label.family,
        NOTHING if one.label.success is None else f"{one.label.success:.0%}",
        said,
        NOTHING if one.label.target is None else str(one.label.target),
        NOTHING if one.target is None else str(one.target),
        f"{one.seconds:.0f}",
    )


def _flag(one: Seen) -> str:
    return "flagged" if one.flagged else "not flagged"


def document(seen: Sequence[Seen], said: str) -> dict[str, Any]:
    """All figures, for programs."""
    return {
        "schema": SCHEMA,
        "command": said,
        "false_alarm_rates": list(ALARMS),
        "measures": [_row_values(row) for row in rows(seen)],
        "verdicts": [_tally_values(tally) for tally in tallies(seen)],
        "models": [_model_values(one) for one in seen],
    }


def _share_values(part: Share) -> dict[str, Any]:
    return {"hits": part.hits, "count": part.count, "value": part.value, "interval": part.interval}


def _row_values(row: Row) -> dict[str, Any]:
    return {**vars(row), "found": [_share_values(found) for found in row.found]}


def _tally_values(tally: Tally) -> dict[str, Any]:
    return {**vars(tally), "flagged": _share_values(tally.flagged), "named": _share_values(tally.named)}


def _model_values(one: Seen) -> dict[str, Any]:
    label = {**vars(one.label), "model": str(one.label.model), "kind": one.label.kind.value}
    verdict = one.verdict.word if one.verdict is not None else None
    told = {key: value for key, value in vars(one).items() if key != "label"}
    return {**told, "label": label, "verdict": verdict, "named": one.named}
