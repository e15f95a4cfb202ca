"""The bench's tables: one kind of grid, shown on a terminal or written as Markdown, a web page or one long CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bdscan.bench.tables.metrics import Share

NOTHING = "-"
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; max-width: 110rem }
section { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, #0000) }
th:first-child, td:first-child { text-align: left }
tr.published { font-style: italic; opacity: .75 }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
COLUMNS = ("table", "row", "column", "value")


@dataclass(frozen=True)
class Grid:
    """A title, the names of the columns, and rows of text; all columns but the first hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown(grids: Sequence[Grid]) -> str:
    """Each grid under its title."""
    return "\n\n".join(_markdown(grid) for grid in grids)


def _markdown(grid: Grid) -> str:
    rule = ("---", *("---:" for _ in grid.columns[1:]))
    rows = [grid.columns, rule, *grid.rows]
    return "\n".join([f"## {grid.title}", "", *("| " + " | ".join(row) + " |" for row in rows)])


def html(grids: Sequence[Grid]) -> str:
    """A web page that needs nothing else: no script, no request."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>bdscan bench</title><style>{_STYLE}</style>"
    )
    body = "\n".join(_table(grid) for grid in grids)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><h1>bdscan bench</h1>\n{body}\n</body></html>'


def _table(grid: Grid) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in grid.columns)
    rows = "\n".join(_row(row) for row in grid.rows)
    inside = f"<table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>"
    return f"<section><h2>{escape(grid.title)}</h2>\n{inside}</section>"


def _row(row: Sequence[str]) -> str:
    theirs = ' class="published"' if row[-1].startswith("published") else ""
    return f"<tr{theirs}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"


def long_csv(grids: Sequence[Grid]) -> str:
    """One figure a line: tables of different columns fit into one file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for grid in grids:
        for row in grid.rows:
            writer.writerows((grid.title, row[0], *pair) for pair in zip(grid.columns[1:], row[1:], strict=True))
    return out.getvalue().removesuffix("\n")


def rich(grid: Grid) -> RenderableType:
    """The grid for a terminal."""
    from rich import box
    from rich.table import Table

    table = Table(title=grid.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(grid.columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in grid.rows:
        table.add_row(*row)
    return table


def percent(share: float | None) -> str:
    """A share in per cent, or a dash."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def percents(pair: tuple[float, float] | None) -> tuple[str, str]:
    return (NOTHING, NOTHING) if pair is None else (percent(pair[0]), percent(pair[1]))


def count(number: int | None, otherwise: str = NOTHING) -> str:
    return otherwise if number is None else str(number)


def figure(value: float | None, interval: tuple[float, float] | None = None, digits: int = 3) -> str:
    """A number with its 95 % interval."""
    if value is None:
        return NOTHING
    return f"{value:.{digits}f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


def share(part: Share) -> str:
    """So many of so many, in per cent, with the 95 % interval."""
    if part.value is None or part.interval is None:
        return NOTHING
    low, high = part.interval
    return f"{part.hits}/{part.count} = {part.value:.0%} ({low:.0%}-{high:.0%})"
