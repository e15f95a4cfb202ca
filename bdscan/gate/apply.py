"""The stage behind the verdict: what a team's policy and baseline make of a report, and which inputs it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from bdscan.gate.baseline import Baseline, Entry, entry_of
from bdscan.gate.policy import Policy
from bdscan.report import Input, Report

_MAX_OUTDATED = 20  # entries of a baseline that are named one by one


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What a team asks of every model, what it lets pass, and what was read beside the model."""

    policy: Policy = field(default_factory=Policy)
    baseline: Baseline | None = None
    inputs: tuple[Input, ...] = ()
    today: date = field(default_factory=lambda: datetime.now(UTC).date())  # on which an acceptance holds or has expired


def apply_gate(report: Report, options: GateOptions) -> Report:
    """The report with what it misses, what is accepted, whether its findings are new, and its inputs.

    `Report.found` and `Report.undecided` heed all of it.
    """
    report = options.policy.applied(report, options.today)
    if options.baseline is not None:
        report = options.baseline.applied(report)
    return replace(report, inputs=options.inputs)


class GateRecord:
    """What the reports of one call came to, without keeping the reports."""

    def __init__(self, options: GateOptions) -> None:
        self._options = options
        self._entries: dict[str, Entry] = {}
        self._has_findings: dict[str, bool] = {}

    def add(self, report: Report) -> None:
        """Takes note of a report that the gate has been applied to."""
        entry, sha256 = entry_of(report), report.subject.sha256
        if entry is not None:
            self._entries.setdefault(entry.sha256, entry)
        if sha256 is not None:  # what could not be told this time may be found again the next
            earlier = self._has_findings.get(sha256, False)
            self._has_findings[sha256] = earlier or entry is not None or report.undecided

    def remarks(self) -> Iterator[str]:
        """A sentence for each acceptance and each entry of the baseline that let nothing pass."""
        acceptances, today = self._options.policy.accept, self._options.today
        for each in acceptances:
            if each.expires < today:
                name = f"the acceptance of {each.sha256[:12]}…"
                yield f"{name} expired on {each.expires} and does not count: {each.reason}"
        for each in acceptances:  # most often the file has changed
            if each.sha256 not in self._has_findings and each.expires >= today:
                name = f"the acceptance of {each.sha256[:12]}…"
                yield f"{name} fits none of the files that were looked at: {each.reason}"
        outdated = list(self._options.baseline.outdated(self._has_findings)) if self._options.baseline else []
        yield from outdated[:_MAX_OUTDATED]
        if len(outdated) > _MAX_OUTDATED:
            yield f"{len(outdated) - _MAX_OUTDATED} more entries of the baseline no longer apply"

    def next_baseline(self) -> Baseline:
        """All that was found, for the next call to compare with."""
        return Baseline(self._entries)
