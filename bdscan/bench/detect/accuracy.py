"""One model a row, and how often each measure is right: over all triggers, each family, and on the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bdscan.bench.labels import ModelKind, ModelLabel
from bdscan.bench.results import CLEANSE, P_VALUE, VERDICT, DetectOutcome, JobResult
from bdscan.bench.tables.metrics import Share, auc, auc_interval, tpr_at
from bdscan.facts.finding import Verdict

ALARM_RATES = (0.01, 0.05)  # the false-alarm rates at which detection is read
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class DetectRow(DetectOutcome):
    """One model's label, and what each measure made of the model."""

    label: ModelLabel
    method: str
    seconds: float
    failure: str | None = None

    @property
    def named(self) -> bool | None:
        """Whether the class named is the true target; None where there is no single one."""
        return None if self.label.target is None else self.flagged and self.target == self.label.target


def detect_row(label: ModelLabel, result: JobResult) -> DetectRow:
    """A result beside its label."""
    figures = vars(result.outcome) if isinstance(result.outcome, DetectOutcome) else {}
    failure = None if result.failure is None else result.failure.message
    return DetectRow(label=label, method=result.job.method, seconds=result.seconds, failure=failure, **figures)


@dataclass(frozen=True, kw_only=True)
class MeasureAccuracy:
    """How well one measure tells one family of triggers from all controls."""

    measure: str
    family: str
    backdoored: int
    controls: int
    failed: int  # models on which the probe failed; each counts as judged harmless by it
    auc: float | None
    interval: tuple[float, float] | None
    found: tuple[Share, ...]  # at each of ALARM_RATES


@dataclass(frozen=True, kw_only=True)
class VerdictCounts:
    """What one method said of one family of triggers, or of the controls."""

    method: str
    family: str
    verdicts: dict[str, int]
    flagged: Share
    named: Share  # of those with one target: flagged, and the class right
    seconds: float | None  # the median
    passes: float | None


def measure_accuracies(rows: Sequence[DetectRow]) -> list[MeasureAccuracy]:
    """Every measure over every family, all of them together first."""
    done = [row for row in rows if row.failure is None]
    backdoored, controls = _of_kind(done, ModelKind.BACKDOORED), _of_kind(done, ModelKind.CONTROL)
    families = [ALL, *sorted({row.label.family for row in backdoored})]
    return [_accuracy(measure, family, backdoored, controls) for measure in measures(done) for family in families]


def _of_kind(rows: Sequence[DetectRow], kind: ModelKind) -> list[DetectRow]:
    return [row for row in rows if row.label.kind is kind]


def measures(rows: Sequence[DetectRow]) -> list[str]:
    """The verdict first, then each probe, then the baseline."""
    every = {measure for row in rows for measure in row.scores}
    first, last = [m for m in (VERDICT, P_VALUE) if m in every], [m for m in (CLEANSE,) if m in every]
    return [*first, *sorted(every - {VERDICT, P_VALUE, CLEANSE}), *last]


def _accuracy(
    measure: str, family: str, backdoored: Sequence[DetectRow], controls: Sequence[DetectRow]
) -> MeasureAccuracy:
    method = "cleanse" if measure == CLEANSE else "inspect"
    bad = [row for row in backdoored if row.method == method and family in (ALL, row.label.family)]
    good = [row for row in controls if row.method == method]
    bad_scores, good_scores = ([row.scores.get(measure, 0.0) for row in side] for side in (bad, good))
    value = auc(bad_scores, good_scores)
    return MeasureAccuracy(
        measure=measure,
        family=family,
        backdoored=len(bad),
        controls=len(good),
        failed=sum(measure in row.failures for row in (*bad, *good)),
        auc=value,
        interval=None if value is None else auc_interval(value, len(bad), len(good)),
        found=tuple(tpr_at(bad_scores, good_scores, rate) for rate in ALARM_RATES),
    )


def verdict_counts(rows: Sequence[DetectRow]) -> list[VerdictCounts]:
    """The controls first: a method that flags them is worth nothing."""
    counts = []
    for method in sorted({row.method for row in rows}, reverse=True):
        done = [row for row in rows if row.method == method and row.failure is None]
        backdoored = _of_kind(done, ModelKind.BACKDOORED)
        counts.append(_counts(method, "controls", _of_kind(done, ModelKind.CONTROL)))
        counts.append(_counts(method, ALL, backdoored))
        families = sorted({row.label.family for row in backdoored})
        counts += [_counts(method, each, [row for row in backdoored if row.label.family == each]) for each in families]
    return counts


def _counts(method: str, family: str, rows: Sequence[DetectRow]) -> VerdictCounts:
    named = [row.named for row in rows if row.label.kind is ModelKind.BACKDOORED and row.named is not None]
    verdicts = {v.word: sum(row.verdict is v for row in rows) for v in Verdict} if method == "inspect" else {}
    return VerdictCounts(
        method=method,
        family=family,
        verdicts=verdicts,
        flagged=Share(sum(row.flagged for row in rows), len(rows)),
        named=Share(sum(named), len(named)),
        seconds=median(row.seconds for row in rows) if rows else None,
        passes=median(row.passes for row in rows) if rows else None,
    )
