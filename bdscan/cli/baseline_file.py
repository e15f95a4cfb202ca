"""The baseline of one call: which findings are known, which entries no longer apply, and the next one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bdscan.cli import output

if TYPE_CHECKING:
    from bdscan.report import Report

_TOLD = 20  # entries that are told one by one


class Known:
    """Keeps count of what was found, without keeping the reports."""

    def __init__(self, given: Path | None, next_one: Path | None) -> None:
        from bdscan.gate.baseline import Entry, read

        if next_one is not None:
            output.writable(next_one)
        self._given = read(given) if given is not None else None
        self._next = next_one
        self._entries: dict[str, Entry] = {}
        self._found: dict[str, bool] = {}

    def applied(self, report: Report) -> Report:
        """The report, with whether its findings are known."""
        from bdscan.gate.baseline import entry_of

        entry, sha256 = entry_of(report), report.subject.sha256
        if entry is not None:
            self._entries.setdefault(entry.sha256, entry)
        if sha256 is not None:  # what could not be told this time may be found again the next
            self._found[sha256] = self._found.get(sha256, False) or entry is not None or report.undecided
        return self._given.applied(report) if self._given else report

    def finish(self) -> None:
        """Says what no longer applies, and writes the next baseline."""
        from bdscan.gate.baseline import written

        outdated = list(self._given.outdated(self._found)) if self._given else []
        for sentence in outdated[:_TOLD]:
            output.say(sentence)
        if len(outdated) > _TOLD:
            output.say(f"{len(outdated) - _TOLD} more entries of the baseline no longer apply")
        if self._next is not None:
            output.write(self._next, written(list(self._entries.values())))
