"""What every bench command says: progress, tables, and what went wrong."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem

if TYPE_CHECKING:
    from bdscan.bench.labels import Labelled
    from bdscan.bench.tables.grid import Grid
    from bdscan.bench.workers.jobs import Result


def command() -> str:
    """What the user typed, for the files that it led to."""
    return shlex.join(["bdscan", *sys.argv[1:]])


def writable(output: Path | None) -> None:
    """Known before hours of work, not after."""
    if output is not None and output.suffix not in (".json", ".md"):
        raise Problem(f"`{output}` is neither .json nor .md", status=USAGE)
    if output is not None and not output.parent.is_dir():
        raise Problem(f"cannot write `{output}`: it lies in a folder that does not exist", status=USAGE)


def arch(told: str, label: Labelled) -> str:
    """`--arch` for one model: a file's factory is the one that its label names."""
    if not told.endswith(".py"):
        return told
    return f"{told}:{label.arch}" if label.arch else "auto"


def tell(result: Result, done: int, total: int) -> None:
    """One job is over."""
    job, failure = result["job"], result["failure"]
    how = [job.get("purifier", job["method"]), *([f"{job['images']} images"] if job.get("images") else [])]
    said = f"failed, {failure}" if failure else f"{result['seconds']:.0f} s"
    typer.echo(f"{done}/{total} {job['name']} ({', '.join(how)}): {said}", err=True)


def present(grids: Sequence[Grid], document: Callable[[], Mapping[str, Any]], output: Path | None) -> None:
    """The tables on stdout, and in the file that the user asked for."""
    from rich.console import Console

    from bdscan.bench.tables import grid as tables

    console = Console()
    if not console.is_terminal:
        console.width = 200  # piped: nobody's window, and a cut number is no number
    for grid in grids:
        console.print(tables.rich(grid))
    if output is not None:
        text = json.dumps(document(), indent=1) if output.suffix == ".json" else tables.markdown(grids)
        output.write_text(text + "\n", encoding="utf-8")
        typer.echo(f"bdscan: wrote {output}", err=True)


def failures(made: Sequence[Result]) -> None:
    """The exit status, where jobs failed."""
    failed = sum(result["failure"] is not None for result in made)
    if failed:
        typer.echo(f"bdscan: {failed} of {len(made)} jobs failed; the same command tries them again", err=True)
        raise typer.Exit(COULD_NOT_TELL)
