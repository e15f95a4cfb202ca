"""The figures of `bdscan bench train` as a table for people and as values for programs, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bdscan.bench.tables.grid import NOTHING, Grid, percent
from bdscan.bench.workers.jobs import Result

SCHEMA = "bdscan.bench.train/1"


def grids(made: Sequence[Result]) -> list[Grid]:
    """One row a training, in the order in which they were asked for."""
    columns = ("trigger", "poisoned", "method", "ACC", "ASR", "isolated", "precision", "recall", "p", "verdict", "s")
    rows = tuple(_row(result) for result in made)
    return [Grid("Training on data nobody vouches for, in per cent", columns, rows)]


def _row(result: Result) -> tuple[str, ...]:
    job = result["job"]
    name = ":".join((job["plant"], *job["settings"])) if job["plant"] else "clean"
    head = (name, f"{100 * job['rate']:g}" if job["plant"] else NOTHING, job["trainer"])
    if result["failure"] is not None:
        return (*head, *(NOTHING for _ in range(6)), f"failed: {result['failure']}", NOTHING)
    outcome = result["outcome"]
    measured, isolation = outcome["measured"], outcome["training"]["isolation"]
    return (
        *head,
        percent(measured["accuracy"]["after"]),
        percent(measured["asr"]["after"] if measured["asr"] else None),
        str(measured["isolated"]) if isolation else NOTHING,
        percent(measured["precision"]),
        percent(measured["recall"]),
        f"{isolation['p_value']:.1g}" if isolation else NOTHING,
        outcome["verdict"],
        f"{outcome['seconds']['train']:.0f}",
    )


def document(made: Sequence[Result], said: str, pace: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All figures, for programs: shares, not per cent."""
    return {"schema": SCHEMA, "command": said, "pace": pace, "trainings": [_values(result) for result in made]}


def _values(result: Result) -> dict[str, Any]:
    told = {"job": result["job"], "failure": result["failure"], "seconds": result["seconds"]}
    if result["failure"] is not None:
        return told
    outcome: Mapping[str, Any] = result["outcome"]
    return {**told, **{key: value for key, value in outcome.items() if key != "passes"}}
