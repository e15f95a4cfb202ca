"""The report for a terminal or a CI log: one line a finding, then the verdict."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bdscan.finding import Level, Run, Verdict
from bdscan.report import Report, words

_STYLES = {
    Verdict.CLEAN: "bold green",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.SUSPICIOUS: "bold yellow",
    Verdict.BACKDOORED: "bold red",
}
_LEVELS = {Level.NOTE: "dim", Level.SUSPECT: "yellow", Level.BACKDOOR: "bold red"}
_FINDINGS = 50  # of one probe: a hostile file must not flood the log
_NOTES = 2  # of one probe, the most telling ones, and only where it found nothing graver
_LABEL = 8  # so that the short table and the long one line up


def render(report: Report, colour: bool = False) -> str:
    """Nothing depends on colour; `NO_COLOR` overrules `colour`."""
    colour = colour and not os.environ.get("NO_COLOR")
    console = Console(
        file=io.StringIO(),
        width=_width(),
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    with console.capture() as caught:
        if report.runs:
            console.print(_grid(row for run in report.runs for row in _run(run)))
            console.print()
        console.print(_grid(_verdict(report)))
        console.print(Text(f"hint: {words.hint(report)}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in caught.get().splitlines())


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return max(40, int(columns)) if columns.isdecimal() else 100


def _grid(rows: Iterator[tuple[Text | str, ...]]) -> Table:
    cells = [tuple(cell if isinstance(cell, Text) else Text(cell) for cell in row) for row in rows]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(len(cells[0]) if cells else 0):
        last = column == len(cells[0]) - 1
        grid.add_column(no_wrap=not last, overflow="fold", min_width=None if last else _LABEL)
    for row in cells:
        grid.add_row(*row)
    return grid


def _run(run: Run) -> Iterator[tuple[Text | str, ...]]:
    found = words.ranked(run)
    grave = [finding for finding in found if finding.level > Level.NOTE][:_FINDINGS]
    notes = sorted((f for f in found if f.level is Level.NOTE), key=lambda f: (f.p_value is None, f.p_value or 0))
    shown = grave + notes[: 0 if grave else _NOTES]
    for finding in shown:
        level = "-" if finding.level is Level.NOTE else finding.level.word
        numbers = words.evidence(finding)
        message = words.plain(finding.message) + (f" ({numbers})" if numbers else "")
        yield run.probe, Text(level, style=_LEVELS[finding.level]), message
    if len(found) > len(shown):
        yield run.probe, "-", f"{len(found) - len(shown)} more in the HTML and JSON reports"
    if run.failure is not None:
        yield run.probe, Text("failed", style="yellow"), words.plain(run.failure)
    elif not run.findings:
        yield run.probe, "-", "nothing to report"


def _verdict(report: Report) -> Iterator[tuple[Text | str, ...]]:
    subject, judgement = report.subject, report.judgement
    yield "file", words.plain(subject.path)
    if subject.format:
        yield "format", words.plain(subject.format)
    if subject.sha256:
        yield "sha256", words.plain(subject.sha256)
    yield "model", words.model(report)
    yield "images", words.clean_data(report)
    verdict = Text(report.verdict.word, style=_STYLES[report.verdict]).append(f": {words.sentence(report)}", style="")
    if judgement.p_value is not None:
        verdict.append(f" (p = {words.number(judgement.p_value)})", style="")
    yield "verdict", verdict
    if judgement.target is not None:
        yield "target", words.named(report, judgement.target)
    yield from _listed("because", words.reasons(report))
    yield from _listed("failed", words.failures(report))
    yield from _listed("treated", [f"{what}: {before} -> {after}" for what, before, after in words.treated(report)])


def _listed(label: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for place, line in enumerate(lines):
        yield label if place == 0 else "", line
