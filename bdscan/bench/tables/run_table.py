"""`bdscan bench table`: all results as tables, beside what others published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan.facts.problem import USAGE, Problem

if TYPE_CHECKING:
    from bdscan.bench.tables.grid import Grid
    from bdscan.bench.tables.result_files import Gathered

FORMS = (".md", ".html", ".csv", ".json")


def table(
    found: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders or files of results and labels.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(help="Write them here (repeatable): .md, .html, .csv; .json: the results, in one file."),
    ] = None,
) -> None:
    """Make tables from the small files that the other commands left, and from nothing else."""
    from rich.console import Console

    from bdscan.bench.tables import grid as tables
    from bdscan.bench.tables import grids as table_grids
    from bdscan.bench.tables.result_files import gather

    for path in output or []:
        _writable(path)
    results = gather(found)
    if results.untold:
        names = ", ".join(results.untold[:5]) + (" ..." if len(results.untold) > 5 else "")
        typer.echo(f"bdscan: left out, since nothing says what they are: {names}", err=True)
        typer.echo("hint: give the folder of the models too, it holds their labels", err=True)
    grids = table_grids.grids(results)
    if not output:
        console = Console()
        if not console.is_terminal:
            console.width = 250  # piped: nobody's window, and a cut number is no number
        for grid in grids:
            console.print(tables.rich(grid))
    for path in output or []:
        path.write_text(_text(path.suffix, grids, results) + "\n", encoding="utf-8")
        typer.echo(f"bdscan: wrote {path}", err=True)


def _writable(path: Path) -> None:
    if path.suffix not in FORMS:
        raise Problem(f"`{path}` is none of {', '.join(FORMS)}", status=USAGE)
    if not path.parent.is_dir():
        raise Problem(f"cannot write `{path}`: it lies in a folder that does not exist", status=USAGE)


def _text(form: str, grids: list[Grid], results: Gathered) -> str:
    from bdscan.bench.tables import export, result_files
    from bdscan.bench.tables import grid as tables

    if form == ".json":
        return result_files.slim(results)
    return {".md": tables.markdown, ".html": export.html, ".csv": export.long_csv}[form](grids)
