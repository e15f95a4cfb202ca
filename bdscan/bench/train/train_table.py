"""The figures of `bdscan bench train` as a table for people and as values for programs, from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bdscan.bench.results import JobResult, TrainOutcome
from bdscan.bench.tables.grid import NOTHING, Grid, count, percent
from bdscan.bench.workers.job import Json

if TYPE_CHECKING:
    from bdscan.bench.train.pace import Pace

SCHEMA = "bdscan.bench.train/1"


def grids(results: Sequence[JobResult]) -> list[Grid]:
    """One row a training, in the order in which they were asked for."""
    columns = ("trigger", "poisoned", "method", "ACC", "ASR", "isolated", "precision", "recall", "p", "verdict", "s")
    return [Grid("Training on data nobody vouches for, in per cent", columns, tuple(_row(each) for each in results))]


def _row(result: JobResult) -> tuple[str, ...]:
    job, outcome = result.job, result.outcome
    trigger = ":".join((job.plant, *job.settings)) if job.plant else "clean"
    head = (trigger, f"{100 * job.rate:g}" if job.plant else NOTHING, str(job.trainer))
    if not isinstance(outcome, TrainOutcome):
        return (*head, *[NOTHING] * 6, str(result.failure), NOTHING)
    return (
        *head,
        percent(outcome.accuracy),
        percent(outcome.success),
        count(outcome.isolated),
        percent(outcome.precision),
        percent(outcome.recall),
        NOTHING if outcome.p_value is None else f"{outcome.p_value:.1g}",
        outcome.verdict,
        f"{outcome.seconds:.0f}",
    )


def figures(results: Sequence[JobResult], command: str, pace: Pace | None = None) -> Json:
    """All figures, for programs: shares, not per cent."""
    trainings = [_training_json(result.raw) for result in results]
    return {"schema": SCHEMA, "command": command, "pace": pace and pace.json(), "trainings": trainings}


def _training_json(raw: Json) -> Json:
    outcome = raw["outcome"] if raw["failure"] is None else {}
    kept = {key: value for key, value in outcome.items() if key != "passes"}
    return {"job": raw["job"], "failure": raw["failure"], "seconds": raw["seconds"], **kept}
