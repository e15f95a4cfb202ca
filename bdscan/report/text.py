"""The report for a terminal or a CI log: one line a finding, then the verdict."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bdscan.facts.finding import Level, Run, Verdict
from bdscan.report import Report, training_text, treatment_text, words
from bdscan.report import numbers as figures

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
    chosen = grave + notes[: 0 if grave else _NOTES]
    for finding in chosen:
        level = "-" if finding.level is Level.NOTE else finding.level.word
        numbers = words.evidence(finding)
        message = figures.plain(finding.message) + (f" ({numbers})" if numbers else "")
        yield run.probe, Text(level, style=_LEVELS[finding.level]), message
    if len(found) > len(chosen):
        yield run.probe, "-", f"{len(found) - len(chosen)} more in the HTML and JSON reports"
    if run.failure is not None:
        yield run.probe, Text("failed", style="yellow"), figures.plain(run.failure.message)
    elif not run.findings:
        yield run.probe, "-", "nothing to report"


def _verdict(report: Report) -> Iterator[tuple[Text | str, ...]]:
    subject, judgement = report.subject, report.judgement
    yield "file", figures.plain(subject.path)
    if subject.format:
        yield "format", figures.plain(subject.format)
    if subject.sha256:
        yield "sha256", figures.plain(subject.sha256)
    yield "model", words.model(report)
    yield "images", words.clean_data(report)
    verdict = Text(report.verdict.word, style=_STYLES[report.verdict]).append(f": {words.sentence(report)}", style="")
    if judgement.p_value is not None and report.treatment is None:  # it is not of the treatment
        verdict.append(f" (p = {figures.number(judgement.p_value)})", style="")
    yield "verdict", verdict
    if judgement.target is not None:
        yield "target", figures.named(report, judgement.target)
    if report.accepted:
        yield "accepted", words.accepted(report)
    if words.unchanged(report):
        yield "known", words.unchanged(report)
    yield from _listed("because", words.reasons(report))
    yield from _listed("failed", words.failures(report))
    yield from _treated(report)
    yield from _listed("trained", [f"{label}: {line}" for label, line in training_text.lines(report)])


def _treated(report: Report) -> Iterator[tuple[str, str]]:
    yield from _listed("treated", [f"{label}: {line}" for label, line in treatment_text.done(report)])
    yield from _listed("changed", [_change(*change) for change in treatment_text.measured(report)])
    yield from _listed("checks", [f"{check.word}: {check.message}" for check in treatment_text.checks(report)])
    yield from _listed("tried", [_trial(trial) for trial in treatment_text.tried(report)])


def _change(what: str, before: str, after: str) -> str:
    return f"{what}: {after}" if before == "-" else f"{what}: {before} -> {after}"


def _trial(trial: treatment_text.TrialLine) -> str:
    measured = f"clean accuracy {trial.clean_accuracy}, recovered trigger {trial.success}"
    return f"{trial.method}: {trial.outcome} ({trial.seconds}, {measured})" + (f": {trial.why}" if trial.why else "")


def _listed(label: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    for place, line in enumerate(lines):
        yield label if place == 0 else "", line
