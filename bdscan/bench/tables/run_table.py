"""`bdscan bench table`: all results as tables, beside what others published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan.bench.output import check_writable, print_tables, write_text

if TYPE_CHECKING:
    from bdscan.bench.tables.grid import Grid
    from bdscan.bench.tables.result_files import BenchResults

FORMS = (".md", ".html", ".csv", ".json")
MAX_NAMES = 5  # of models that are left out; more make no better sentence


def table(
    paths: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders or files of results and labels.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(help="Write them here (repeatable): .md, .html, .csv; .json: the results, in one file."),
    ] = None,
) -> None:
    """Make tables from the small files that the other commands left, and from nothing else."""
    from bdscan.bench.tables import bench_tables
    from bdscan.bench.tables.result_files import gather

    for path in output or []:
        check_writable(path, FORMS)
    results = gather(paths)
    if results.unlabelled:
        names = ", ".join(results.unlabelled[:MAX_NAMES]) + (" ..." if len(results.unlabelled) > MAX_NAMES else "")
        typer.echo(f"bdscan: left out, since nothing says what they are: {names}", err=True)
        typer.echo("hint: give the folder of the models too, it holds their labels", err=True)
    grids = bench_tables.grids(results)
    if not output:
        print_tables(grids, width=250)
    for path in output or []:
        write_text(path, _text(path.suffix, grids, results))


def _text(form: str, grids: list[Grid], results: BenchResults) -> str:
    from bdscan.bench.tables.grid import html, long_csv, markdown
    from bdscan.bench.tables.result_files import compact_json

    if form == ".json":
        return compact_json(results)
    return {".md": markdown, ".html": html, ".csv": long_csv}[form](grids)
