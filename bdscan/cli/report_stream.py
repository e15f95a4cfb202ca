"""Reports go out as they come; only what one document must hold together is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import typer

from bdscan.cli.choices import FailOn, Format
from bdscan.cli.console import say
from bdscan.cli.exit_status import FOUND, GRAVEST_FIRST, status_of
from bdscan.cli.report_files import Destinations, rendered, write

if TYPE_CHECKING:
    from bdscan.report import Report

_LINE_BY_LINE = (Format.text, Format.json)  # shown as they come; the other forms are one document


class ReportStream:
    """One call's output: to stdout line by line, or to files and in one-document forms at the end."""

    def __init__(self, destinations: Destinations, fail_on: FailOn, *, many: bool) -> None:
        self._destinations, self._fail_on, self._many = destinations, fail_on, many
        self._kept: list[Report] = []
        self._statuses: set[int] = set()

    @property
    def found(self) -> bool:
        """Whether there was a finding so far: what is wrong with the request does not outweigh it."""
        return FOUND in self._statuses

    def add(self, report: Report) -> None:
        """One report more; with files, its verdict goes to the terminal."""
        form, files, beside = self._destinations.terminal, self._destinations.files, self._destinations.beside
        self._statuses.add(status_of(report, self._fail_on))
        if files:
            say(f"{report.subject.path}: {', '.join(_result_words(report))}")
        elif form in _LINE_BY_LINE:
            typer.echo(rendered([report], form, self._fail_on, many=self._many, terminal=True))
        if files or beside or form not in _LINE_BY_LINE:
            self._kept.append(report if self._destinations.uses(Format.html) else _without_pictures(report))

    def finish(self) -> int:
        """Writes what was kept; the gravest of all statuses."""
        form = self._destinations.terminal
        if not self._destinations.files and form not in _LINE_BY_LINE:
            typer.echo(rendered(self._kept, form, self._fail_on, many=self._many))
        if self._destinations.uses(Format.intoto):
            from bdscan.report.intoto import attestable

            for report in self._kept:
                if not attestable(report):
                    say(f"{report.subject.path}: no attestation, since nobody knows the bytes it would be about")
        for file in self._destinations.all_files:
            write(file.path, rendered(self._kept, file.form, self._fail_on, many=self._many))
        return next(status for status in GRAVEST_FIRST if status in self._statuses)


def conclude(report: Report, destinations: Destinations, fail_on: FailOn) -> NoReturn:
    """Writes one report wherever it is wanted, else shows it, and ends with its status."""
    for file in destinations.all_files:
        write(file.path, rendered([report], file.form, fail_on, many=False))
    if not destinations.files:
        typer.echo(rendered([report], destinations.terminal, fail_on, many=False, terminal=True))
    raise typer.Exit(status_of(report, fail_on))


def _result_words(report: Report) -> Iterator[str]:
    """The verdict, and what policy and baseline make of it."""
    yield report.verdict.word
    if report.accepted:
        yield f"accepted until {report.accepted.expires}"
    if report.baseline == "unchanged":
        yield "known, in the baseline"
    yield from report.refused
    yield from report.unmet


def _without_pictures(report: Report) -> Report:
    """HTML alone shows them, and holds one model; those of a thousand models would fill the memory."""
    runs = tuple(
        replace(run, findings=tuple(replace(each, trigger=None, pictures=None, norms=None) for each in run.findings))
        for run in report.runs
    )
    return replace(report, runs=runs)
