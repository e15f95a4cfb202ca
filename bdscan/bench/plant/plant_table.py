"""What `bdscan bench plant` trained, as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Sequence

from bdscan.bench.labels import MAX_CONTROL_ASR, MIN_BACKDOOR_ASR, ModelLabel
from bdscan.bench.results import JobResult, PlantOutcome
from bdscan.bench.tables.grid import NOTHING, Grid
from bdscan.bench.workers.job import Json

SCHEMA = "bdscan.bench.plant/1"
TITLE = (
    f"Nets: backdoored from {MIN_BACKDOOR_ASR:.0%} success on, a control below {MAX_CONTROL_ASR:.0%}, "
    "else left out of every figure"
)


def grids(results: Sequence[JobResult]) -> list[Grid]:
    """One row a net."""
    columns = ("net", "trigger", "share", "target", "ACC", "ASR", "counts as", "seconds")
    return [Grid(TITLE, columns, tuple(_row(result) for result in results))]


def _row(result: JobResult) -> tuple[str, ...]:
    if not isinstance(result.outcome, PlantOutcome):
        return (result.job.name, str(result.failure), *[NOTHING] * 6)
    label = result.outcome.label
    return (
        result.job.name,
        label.attack or "none",
        f"{label.rate:.1%}" if label.attack else NOTHING,
        _target(label),
        NOTHING if label.accuracy is None else f"{label.accuracy:.1%}",
        NOTHING if label.success is None else f"{label.success:.1%}",
        label.kind,
        f"{result.outcome.seconds:.0f}",
    )


def _target(label: ModelLabel) -> str:
    if label.attack is None:
        return NOTHING
    return "all" if label.target is None else str(label.target)


def figures(results: Sequence[JobResult], command: str) -> Json:
    """All figures, for programs."""
    nets = [{"name": each.job.name, "failure": each.raw["failure"], **(each.raw["outcome"] or {})} for each in results]
    return {"schema": SCHEMA, "command": command, "nets": nets}
