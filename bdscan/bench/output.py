"""What every bench command prints: progress, tables, and how many jobs failed."""

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
    from bdscan.bench.labels import ModelLabel
    from bdscan.bench.results import JobResult
    from bdscan.bench.tables.grid import Grid
    from bdscan.bench.workers.job import Job, Json


RESULTS = Path("bench-results")  # where result files go unless the user says otherwise


def command_line() -> str:
    """What the user typed, for the files that it led to."""
    return shlex.join(["bdscan", *sys.argv[1:]])


def check_writable(output: Path | None, forms: Sequence[str] = (".json", ".md")) -> None:
    """Before hours of work, not after."""
    if output is None:
        return
    if output.suffix not in forms:
        among = f"neither {forms[0]} nor {forms[1]}" if len(forms) == 2 else f"none of {', '.join(forms)}"
        raise Problem(f"`{output}` is {among}", status=USAGE)
    if not output.parent.is_dir():
        raise Problem(f"cannot write `{output}`: it lies in a folder that does not exist", status=USAGE)


def arch_of(arch: str, label: ModelLabel) -> str:
    """`--arch` for one model: a file's factory is the one that its label names."""
    if not arch.endswith(".py"):
        return arch
    return f"{arch}:{label.arch}" if label.arch else "auto"


def run_jobs(work: Sequence[Job], folder: Path, workers: int, engine: str = "processes") -> list[JobResult]:
    """The results of all jobs, in their order."""
    from bdscan.bench.result_json import read_result
    from bdscan.bench.workers.jobs import run

    values = run(work, folder, workers=workers, engine=engine, command_line=command_line(), on_result=show_progress)
    return [read_result(value) for value in values]


def show_progress(result: Json, done: int, total: int) -> None:
    """One job is over."""
    from bdscan.bench.result_json import read_job

    job, failure = read_job(result["job"]), result["failure"]
    what = ", ".join([job.purifier or job.method, *([f"{job.images} images"] if job.images else [])])
    message = f"failed, {failure}" if failure else f"{result['seconds']:.0f} s"
    typer.echo(f"{done}/{total} {job.name} ({what}): {message}", err=True)


def conclude(
    finished: Sequence[JobResult],
    grids: Sequence[Grid],
    figures: Callable[[str], Mapping[str, Any]],
    output: Path | None,
) -> None:
    """The tables on stdout, and in the file that the user asked for; then the exit status, where jobs failed."""
    from bdscan.bench.tables import grid as tables

    print_tables(grids, width=200)
    if output is not None:
        text = json.dumps(figures(command_line()), indent=1) if output.suffix == ".json" else tables.markdown(grids)
        write_text(output, text)
    failed = sum(result.failure is not None and not result.failure.refused for result in finished)
    if failed:
        typer.echo(f"bdscan: {failed} of {len(finished)} jobs failed; the same command tries them again", err=True)
        raise typer.Exit(COULD_NOT_TELL)


def print_tables(grids: Sequence[Grid], width: int) -> None:
    """On stdout. Where that is piped it is nobody's window, and a number that is cut is no number."""
    from rich.console import Console

    from bdscan.bench.tables import grid as tables

    console = Console()
    if not console.is_terminal:
        console.width = width
    for grid in grids:
        console.print(tables.rich(grid))


def write_text(output: Path, text: str) -> None:
    output.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"bdscan: wrote {output}", err=True)
