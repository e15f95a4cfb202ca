"""One model a row: what it holds, and what a detector made of it, as numbers that can be ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from bdscan.bench.labels import ModelLabel
from bdscan.bench.results import InspectOutcome, JobResult, NeuralCleanseOutcome
from bdscan.facts.finding import Verdict

MIN_P = 1e-300  # smaller ones are not told apart
VERDICT, P_VALUE, CLEANSE = "verdict", "p-value", "neural cleanse"  # the measures beside the probes


@dataclass(frozen=True, kw_only=True)
class DetectRow:
    """One model's label, and what each measure made of the model."""

    label: ModelLabel
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


def detect_row(label: ModelLabel, result: JobResult) -> DetectRow:
    """A result beside its label."""
    outcome, method, seconds = result.outcome, result.job.method, result.seconds
    if isinstance(outcome, NeuralCleanseOutcome):
        return DetectRow(
            label=label,
            method=method,
            seconds=seconds,
            flagged=outcome.flagged,
            target=outcome.target if outcome.flagged else None,
            passes=outcome.passes,
            scores={CLEANSE: outcome.index},
        )
    if isinstance(outcome, InspectOutcome):
        p_values = {run.probe: min(run.p_values) for run in outcome.runs if run.p_values}
        return DetectRow(
            label=label,
            method=method,
            seconds=seconds,
            flagged=outcome.verdict >= Verdict.SUSPICIOUS,
            verdict=outcome.verdict,
            target=outcome.target,
            passes=outcome.passes,
            scores={
                VERDICT: float(outcome.verdict),
                P_VALUE: strength(outcome.p_value),
                **{probe: strength(p) for probe, p in p_values.items()},
            },
            failures={run.probe: run.failure for run in outcome.runs if run.failure},
            probe_seconds={run.probe: run.seconds for run in outcome.runs},
        )
    assert result.failure is not None
    return DetectRow(label=label, method=method, seconds=seconds, failure=result.failure.message)


def strength(p: float | None) -> float:
    """-log10 p; a probe that gave none saw nothing."""
    return 0.0 if p is None else -math.log10(max(p, MIN_P))
