"""What one result says, as numbers that can be ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdscan.bench.labels import Labelled
from bdscan.bench.workers.jobs import Result
from bdscan.facts.finding import Verdict

LEAST_P = 1e-300  # smaller ones are not told apart
VERDICT, P_VALUE, CLEANSE = "verdict", "p-value", "neural cleanse"  # the measures beside the probes


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One model's truth, and what each measure made of it."""

    label: Labelled
    method: str
    seconds: float
    failure: str | None = None
    flagged: bool = False  # an alarm
    verdict: Verdict | None = None
    target: int | None = None  # the class named
    passes: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)  # a measure's, large is bad
    failures: Mapping[str, str] = field(default_factory=dict)  # a probe's
    probe_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def named(self) -> bool | None:
        """Whether the class named is the true target; None where there is no single one."""
        return None if self.label.target is None else self.flagged and self.target == self.label.target


def read(label: Labelled, result: Result) -> Seen:
    """A result beside its label."""
    method, seconds = result["job"]["method"], result["seconds"]
    if result["failure"] is not None:
        return Seen(label=label, method=method, seconds=seconds, failure=result["failure"])
    outcome = result["outcome"]
    if method == "cleanse":
        found = outcome["cleanse"]
        return Seen(
            label=label,
            method=method,
            seconds=seconds,
            flagged=found["flagged"],
            target=found["target"] if found["flagged"] else None,
            passes=outcome["passes"],
            scores={CLEANSE: found["index"]},
        )
    return _inspected(label, seconds, outcome)


def _inspected(label: Labelled, seconds: float, outcome: Mapping[str, Any]) -> Seen:
    report = outcome["report"]
    verdict = Verdict[report["verdict"].upper()]
    runs: Sequence[Mapping[str, Any]] = report["runs"]
    least = {run["probe"]: min(found) for run in runs if (found := _p_values(run))}
    return Seen(
        label=label,
        method="inspect",
        seconds=seconds,
        flagged=verdict >= Verdict.SUSPICIOUS,
        verdict=verdict,
        target=report["target"],
        passes=outcome["passes"],
        scores={
            VERDICT: float(verdict),
            P_VALUE: strength(report["p_value"]),
            **{probe: strength(p) for probe, p in least.items()},
        },
        failures={run["probe"]: run["failure"] for run in runs if run["failure"]},
        probe_seconds={run["probe"]: run["seconds"] for run in runs},
    )


def strength(p: float | None) -> float:
    """-log10 p; a probe that gave none saw nothing."""
    return 0.0 if p is None else -math.log10(max(p, LEAST_P))


def _p_values(run: Mapping[str, Any]) -> list[float]:
    """All that the findings of a run hold: one a class where a finding has them, else its own."""
    told: list[float | None] = []
    for finding in run["findings"]:
        told += (finding["per_class"] or {}).get("p_values") or [finding["p_value"]]
    return [p for p in told if p is not None]
