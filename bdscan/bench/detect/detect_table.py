"""The figures of `bdscan bench detect` as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence

from bdscan.bench.detect.accuracy import (
    ALARM_RATES,
    ALL,
    DetectRow,
    MeasureAccuracy,
    VerdictCounts,
    measure_accuracies,
    verdict_counts,
)
from bdscan.bench.labels import label_figures
from bdscan.bench.tables import grid
from bdscan.bench.tables.grid import NOTHING, Grid, count, figure
from bdscan.bench.tables.metrics import Share
from bdscan.bench.workers.job import Json
from bdscan.facts.finding import Verdict

SCHEMA = "bdscan.bench.detect/1"


def grids(rows: Sequence[DetectRow]) -> list[Grid]:
    """All tables, for people."""
    accuracies = measure_accuracies(rows)
    return [_measures(accuracies), _families(accuracies), _verdicts(verdict_counts(rows)), _models(rows)]


def _measures(accuracies: Sequence[MeasureAccuracy]) -> Grid:
    found = (f"found at {rate:.0%} false alarms" for rate in ALARM_RATES)
    body = tuple(
        (
            each.measure,
            str(each.backdoored),
            str(each.controls),
            str(each.failed),
            figure(each.auc, each.interval),
            *(grid.share(share) for share in each.found),
        )
        for each in accuracies
        if each.family == ALL
    )
    title = "Each measure over all triggers (1% false alarms of fewer than 100 controls: none)"
    return Grid(title, ("measure", "backdoored", "controls", "failed", "AUC", *found), body)


def _families(accuracies: Sequence[MeasureAccuracy]) -> Grid:
    families = list(dict.fromkeys(each.family for each in accuracies))
    by_name = {(each.measure, each.family): each for each in accuracies}
    measures = list(dict.fromkeys(each.measure for each in accuracies))
    body = tuple((name, *(figure(by_name[name, family].auc, digits=2) for family in families)) for name in measures)
    return Grid("AUC of each measure over each trigger", ("measure", *families), body)


def _verdicts(counts: Sequence[VerdictCounts]) -> Grid:
    words = [v.word for v in Verdict]
    columns = ("method, trigger", *words, "flagged", "target right", "seconds", "image passes")
    body = tuple(
        (
            f"{each.method}, {each.family}",
            *(str(each.verdicts.get(word, NOTHING)) for word in words),
            grid.share(each.flagged),
            grid.share(each.named),
            figure(each.seconds, digits=0),
            NOTHING if each.passes is None else f"{each.passes:,.0f}",
        )
        for each in counts
    )
    return Grid("Verdicts", columns, body)


def _models(rows: Sequence[DetectRow]) -> Grid:
    columns = ("model", "method", "counts as", "trigger", "success", "said", "target", "named", "seconds")
    return Grid("Each model", columns, tuple(_model(row) for row in rows))


def _model(row: DetectRow) -> tuple[str, ...]:
    return (
        row.label.name,
        row.method,
        row.label.kind.value,
        row.label.family,
        NOTHING if row.label.success is None else f"{row.label.success:.0%}",
        _answer(row),
        count(row.label.target),
        count(row.target),
        f"{row.seconds:.0f}",
    )


def _answer(row: DetectRow) -> str:
    if row.failure is not None:
        return f"failed: {row.failure}"
    if row.verdict is not None:
        return row.verdict.word
    return "flagged" if row.flagged else "not flagged"


def figures(rows: Sequence[DetectRow], command: str) -> Json:
    """All figures, for programs."""
    return {
        "schema": SCHEMA,
        "command": command,
        "false_alarm_rates": list(ALARM_RATES),
        "measures": [
            {**vars(each), "found": [_share_json(found) for found in each.found]} for each in measure_accuracies(rows)
        ],
        "verdicts": [
            {**vars(each), "flagged": _share_json(each.flagged), "named": _share_json(each.named)}
            for each in verdict_counts(rows)
        ],
        "models": [_row_json(row) for row in rows],
    }


def _share_json(share: Share) -> Json:
    return {**vars(share), "value": share.value, "interval": share.interval}


def _row_json(row: DetectRow) -> Json:
    verdict = row.verdict.word if row.verdict is not None else None
    kept = {key: value for key, value in vars(row).items() if key not in ("statistics", "sha256", "accuracy")}
    return {**kept, "label": label_figures(row.label), "verdict": verdict, "named": row.named}
