"""Sentences for the person at the terminal, on stderr."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import typer

from bdscan.facts.problem import CRASHED

if TYPE_CHECKING:
    from bdscan.pipeline.scan import ScanResult


def say(message: str, hint: str = "") -> None:
    """One sentence; a file's name may hold anything, and must not drive the terminal."""
    typer.echo(f"bdscan: {_printable(message)}", err=True)
    if hint:
        typer.echo(f"hint: {_printable(hint)}", err=True)


def say_beside(result: ScanResult) -> None:
    """All that belongs to a scan beside its report."""
    typer.echo(result.stderr, err=True, nl=False)
    for notice in result.notices:
        typer.echo(notice.traceback, err=True, nl=False)
        say(notice.message, notice.hint)


def say_crash() -> None:
    """A bug of ours, shown as one."""
    traceback.print_exc(file=sys.stderr)
    say(CRASHED)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
