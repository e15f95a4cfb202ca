"""Reports go out as they come; only what one document must hold together is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bdscan.cli import output
from bdscan.cli.choices import FailOn, Format

if TYPE_CHECKING:
    from bdscan.facts.finding import Finding
    from bdscan.report import Input, Report


class ReportStream:
    """One call's output: to stdout line by line, or to files and in one-document forms at the end."""

    def __init__(
        self,
        outputs: list[tuple[Path, Format]],
        told: Format,
        fail_on: FailOn,
        *,
        many: bool,
        beside: Sequence[tuple[Path, Format]] = (),
        inputs: tuple[Input, ...] = (),
    ) -> None:
        self._outputs, self._told, self._fail_on, self._many = outputs, told, fail_on, many
        self._beside, self._inputs = beside, inputs
        self._pictures = Format.html in (told, *(form for _, form in outputs))
        self._later: list[Report] = []
        self.statuses: set[int] = set()
        self.sha256: set[str | None] = set()  # of all that was looked at

    def tell(self, report: Report) -> None:
        report = replace(report, inputs=self._inputs)
        self.statuses.add(output.status_of(report, self._fail_on))
        self.sha256.add(report.subject.sha256)
        if self._outputs:
            output.say(f"{report.subject.path}: {', '.join(_outcome(report))}")
        elif self._told in output.LINE_BY_LINE:
            typer.echo(output.rendered([report], self._told, self._fail_on, many=self._many, terminal=True))
            if not self._beside:
                return
        self._later.append(report if self._pictures else _without_pictures(report))

    def finish(self) -> int:
        """Writes what was kept; the gravest of all statuses."""
        if not self._outputs and self._told not in output.LINE_BY_LINE:
            typer.echo(output.rendered(self._later, self._told, self._fail_on, many=self._many))
        if Format.intoto in (self._told, *(form for _, form in (*self._outputs, *self._beside))):
            output.unattested(self._later)
        for path, form in (*self._outputs, *self._beside):
            output.write(path, output.rendered(self._later, form, self._fail_on, many=self._many))
        return next(code for code in output.GRAVEST_FIRST if code in self.statuses)


def _outcome(report: Report) -> Iterator[str]:
    """The verdict, and what a policy makes of it."""
    yield report.verdict.word
    if report.accepted:
        yield f"accepted until {report.accepted.expires}"
    if report.baseline == "unchanged":
        yield "known, in the baseline"
    yield from report.refused
    yield from report.unmet


def _without_pictures(report: Report) -> Report:
    """HTML alone shows them, and holds one model; those of a thousand models would fill the memory."""

    def lighter(finding: Finding) -> Finding:
        return replace(finding, trigger=None, pictures=None, norms=None)

    runs = tuple(replace(run, findings=tuple(map(lighter, run.findings))) for run in report.runs)
    return replace(report, runs=runs)
