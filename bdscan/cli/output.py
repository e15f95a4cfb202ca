"""What goes to the user: reports where they are wanted, everything else to stderr."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from bdscan import __version__
from bdscan.cli.choices import FailOn, Format, by_suffix
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.failure import Failure, FailureKind
from bdscan.facts.finding import Verdict
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem

if TYPE_CHECKING:
    from bdscan.report import Report

FOUND = 1
OUR_FAULT = 4
GRAVEST_FIRST = (OUR_FAULT, FOUND, COULD_NOT_TELL, 0)
LINE_BY_LINE = (Format.text, Format.json)  # told as they come; the others are one document


def say(message: str, hint: str = "") -> None:
    """One sentence for a person; a file's name may hold anything, and must not drive the terminal."""
    typer.echo(f"bdscan: {_printable(message)}", err=True)
    if hint:
        typer.echo(f"hint: {_printable(hint)}", err=True)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def crash() -> None:
    """A bug of ours, told as one."""
    traceback.print_exc(file=sys.stderr)
    say("this is our own fault; please report it with the lines above")


def forms(outputs: Sequence[Path], given: Format | None) -> list[tuple[Path, Format]]:
    """Each output and its form: by its suffix, or as asked for where there is only one."""
    return [(path, given if given and len(outputs) == 1 else by_suffix(path)) for path in outputs]


def beside(sbom: Path | None, attest: Path | None) -> list[tuple[Path, Format]]:
    """What is written beside the report, which goes where it would without."""
    found = [(path, form) for path, form in ((sbom, Format.cyclonedx), (attest, Format.intoto)) if path]
    for path, _ in found:
        writable(path)
    return found


def unattested(reports: Sequence[Report]) -> None:
    """For what there is no statement, though somebody asked for one."""
    from bdscan.report.intoto import attestable

    for report in reports:
        if not attestable(report):
            say(f"{report.subject.path}: no attestation, since nobody knows the bytes it would be about")


def writable(output: Path) -> None:
    """Found out before the work instead of after it."""
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

    options: dict[Format, dict[str, object]] = {
        Format.json: {"compact": many},
        Format.text: {"colour": terminal and sys.stdout.isatty()},
        Format.junit: {"fail_on": least(fail_on)},
        Format.intoto: {"fail_on": least(fail_on), "compact": many},
    }
    return render_all(reports, form.value, **options.get(form, {}))


def conclude(
    report: Report,
    outputs: Sequence[tuple[Path, Format]],
    told: Format | None,
    fail_on: FailOn,
    beside: Sequence[tuple[Path, Format]] = (),
) -> NoReturn:
    """Writes one report wherever it is wanted, else shows it, and ends with its status."""
    for path, each in (*outputs, *beside):
        write(path, rendered([report], each, fail_on, many=False))
    if not outputs:
        typer.echo(rendered([report], told or Format.text, fail_on, many=False, terminal=True))
    raise typer.Exit(status_of(report, fail_on))


def least(fail_on: FailOn) -> Verdict:
    """The least verdict that is a finding."""
    return Verdict.SUSPICIOUS if fail_on is FailOn.suspicious else Verdict.BACKDOORED


def status_of(report: Report, fail_on: FailOn) -> int:
    """The exit status of one report."""
    if any(run.failure and run.failure.kind is FailureKind.CRASH for run in report.runs if run.probe == "load"):
        return OUR_FAULT
    if report.found(least(fail_on)):
        return FOUND
    return COULD_NOT_TELL if report.undecided else 0


def unread(path: str, failure: Failure) -> Report:
    """The report on a file that could not be judged at all."""
    from bdscan.facts.finding import Run
    from bdscan.gate.provenance import digest_of_file
    from bdscan.report import Report, Subject
    from bdscan.verdict.judge import judge

    runs = (Run(probe="load", failure=failure),)
    subject = Subject(path=path, sha256=digest_of_file(path))
    return Report(subject=subject, judgement=judge(runs), runs=runs, made_with={"bdscan": __version__})
