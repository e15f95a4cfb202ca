"""Reports as text: where they go, in which form, and that they can be written there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bdscan.cli.choices import FailOn, Format, by_suffix
from bdscan.cli.console import say
from bdscan.cli.exit_status import least_verdict
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem

if TYPE_CHECKING:
    from bdscan.report import Report


class ReportFile(NamedTuple):
    """A file that the user asked for."""

    path: Path
    form: Format


class Destinations(NamedTuple):
    """Where the reports of one call go."""

    files: tuple[ReportFile, ...]  # in place of the terminal
    beside: tuple[ReportFile, ...]  # written too, whether or not there are others
    terminal: Format  # used where there are no files

    @property
    def all_files(self) -> tuple[ReportFile, ...]:
        return (*self.files, *self.beside)

    def uses(self, form: Format) -> bool:
        return form in (self.terminal, *(file.form for file in self.all_files))


def destinations(
    outputs: Sequence[Path] | None, form: Format | None, *, sbom: Path | None = None, attest: Path | None = None
) -> Destinations:
    """What was asked for; each output has the form of its suffix, or `form` where it is the only one.

    Raises where a file cannot be written: before the work instead of after it.
    """
    paths = outputs or []
    files = tuple(ReportFile(path, form if form and len(paths) == 1 else by_suffix(path)) for path in paths)
    beside = tuple(ReportFile(path, kind) for path, kind in ((sbom, Format.cyclonedx), (attest, Format.intoto)) if path)
    for file in (*files, *beside):
        check_writable(file.path)
    return Destinations(files, beside, form or Format.text)


def check_writable(output: Path) -> None:
    """Raises where nothing could be written there."""
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "lies in a folder that does not exist"
        raise Problem(f"cannot write `{output}`: it {what}", status=USAGE)


def write(output: Path, text: str) -> None:
    """Whole or not at all."""
    try:
        with AtomicFiles(synced=False) as files:
            files.temporary(output).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Problem(f"cannot write `{output}`: {error.strerror}", status=USAGE) from None
    say(f"wrote {output}")


def rendered(reports: Sequence[Report], form: Format, fail_on: FailOn, *, many: bool, terminal: bool = False) -> str:
    """The reports as one text."""
    from bdscan.report import render_all

    if form is Format.json:
        return render_all(reports, form, compact=many)
    if form is Format.text:
        return render_all(reports, form, colour=terminal and sys.stdout.isatty())
    if form is Format.junit:
        return render_all(reports, form, fail_on=least_verdict(fail_on))
    if form is Format.intoto:
        return render_all(reports, form, fail_on=least_verdict(fail_on), compact=many)
    return render_all(reports, form)
