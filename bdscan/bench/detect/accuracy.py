"""How often each measure is right: over all triggers, over each family, and on the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bdscan.bench.detect.detect_rows import CLEANSE, P_VALUE, VERDICT, Seen
from bdscan.bench.labels import Kind
from bdscan.bench.tables.metrics import Share, auc, auc_interval, tpr_at
from bdscan.facts.finding import Verdict

ALARMS = (0.01, 0.05)  # the false-alarm rates at which detection is read
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Row:
    """How well one measure tells one family of triggers from all controls."""

    measure: str
    family: str
    backdoored: int
    controls: int
    failed: int  # models on which the probe failed; each counts as seen by it as harmless
    auc: float | None
    interval: tuple[float, float] | None
    found: tuple[Share, ...]  # at each of ALARMS


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one method said of one family of triggers, or of the controls."""

    method: str
    family: str
    verdicts: dict[str, int]
    flagged: Share
    named: Share  # of those with one target: flagged, and the class right
    seconds: float | None  # the median
    passes: float | None


def rows(seen: Sequence[Seen]) -> list[Row]:
    """Every measure over every family, all of them together first."""
    ran = [one for one in seen if one.failure is None]
    bad = [one for one in ran if one.label.kind is Kind.BACKDOORED]
    good = [one for one in ran if one.label.kind is Kind.CONTROL]
    families = [ALL, *sorted({one.label.family for one in bad})]
    return [_row(measure, family, bad, good) for measure in measures(ran) for family in families]


def measures(seen: Sequence[Seen]) -> list[str]:
    """The verdict first, then each probe, then the baseline."""
    every = {measure for one in seen for measure in one.scores}
    first, last = [m for m in (VERDICT, P_VALUE) if m in every], [m for m in (CLEANSE,) if m in every]
    return [*first, *sorted(every - {VERDICT, P_VALUE, CLEANSE}), *last]


def _row(measure: str, family: str, bad: Sequence[Seen], good: Sequence[Seen]) -> Row:
    method = "cleanse" if measure == CLEANSE else "inspect"
    ours = [one for one in bad if one.method == method and family in (ALL, one.label.family)]
    others = [one for one in good if one.method == method]
    first, second = ([one.scores.get(measure, 0.0) for one in side] for side in (ours, others))
    value = auc(first, second)
    return Row(
        measure=measure,
        family=family,
        backdoored=len(first),
        controls=len(second),
        failed=sum(measure in one.failures for one in (*ours, *others)),
        auc=value,
        interval=None if value is None else auc_interval(value, len(first), len(second)),
        found=tuple(tpr_at(first, second, alarms) for alarms in ALARMS),
    )


def tallies(seen: Sequence[Seen]) -> list[Tally]:
    """The controls first: a method that flags them is worth nothing."""
    found = []
    for method in sorted({one.method for one in seen}, reverse=True):
        ours = [one for one in seen if one.method == method and one.failure is None]
        good = [one for one in ours if one.label.kind is Kind.CONTROL]
        bad = [one for one in ours if one.label.kind is Kind.BACKDOORED]
        found.append(_tally(method, "controls", good))
        found.append(_tally(method, ALL, bad))
        families = sorted({one.label.family for one in bad})
        found += [_tally(method, family, [one for one in bad if one.label.family == family]) for family in families]
    return found


def _tally(method: str, family: str, seen: Sequence[Seen]) -> Tally:
    aimed = [one.named for one in seen if one.label.kind is Kind.BACKDOORED and one.named is not None]
    verdicts = {v.word: sum(one.verdict is v for one in seen) for v in Verdict} if method == "inspect" else {}
    return Tally(
        method=method,
        family=family,
        verdicts=verdicts,
        flagged=Share(sum(one.flagged for one in seen), len(seen)),
        named=Share(sum(aimed), len(aimed)),
        seconds=median(one.seconds for one in seen) if seen else None,
        passes=median(one.passes for one in seen) if seen else None,
    )
