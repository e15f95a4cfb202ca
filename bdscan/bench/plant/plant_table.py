"""What `bdscan bench plant` made, as tables for people and as values for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdscan.bench.labels import FAILS, WORKS, Kind, Labelled
from bdscan.bench.tables.grid import NOTHING, Grid
from bdscan.bench.workers.jobs import Result

SCHEMA = "bdscan.bench.plant/1"


def grids(made: Sequence[Result]) -> list[Grid]:
    """One row a net."""
    columns = ("net", "trigger", "share", "target", "ACC", "ASR", "counts as", "seconds")
    title = f"Nets: backdoored from {WORKS:.0%} success on, a control below {FAILS:.0%}, else left out of every figure"
    return [Grid(title, columns, tuple(_row(result) for result in made))]


def _row(result: Result) -> tuple[str, ...]:
    name = result["job"]["name"]
    if result["failure"] is not None:
        return (name, f"failed: {result['failure']}", *[NOTHING] * 6)
    label = result["outcome"]["label"]
    return (
        name,
        label["attack"] or "none",
        f"{label['rate']:.1%}" if label["attack"] else NOTHING,
        _target(label),
        f"{label['acc']:.1%}",
        NOTHING if label["asr"] is None else f"{label['asr']:.1%}",
        counts_as(label),
        f"{label['seconds']:.0f}",
    )


def _target(label: Mapping[str, Any]) -> str:
    if label["attack"] is None:
        return NOTHING
    return "all" if label["target"] is None else str(label["target"])


def counts_as(label: Mapping[str, Any]) -> Kind:
    """By the one rule that all commands share."""
    told = Labelled(name="", model=Path(), attack=label["attack"], success=label["asr"])
    return told.kind


def document(made: Sequence[Result], said: str) -> dict[str, Any]:
    """All figures, for programs."""
    nets = [
        {"name": result["job"]["name"], "failure": result["failure"], **(result["outcome"] or {})} for result in made
    ]
    return {"schema": SCHEMA, "command": said, "nets": nets}
