"""The bench's tables: one kind of grid, shown on a terminal or written as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bdscan.bench.tables.metrics import Share

if TYPE_CHECKING:
    from rich.console import RenderableType

NOTHING = "-"


def percent(share: float | None) -> str:
    """A share in per cent, or a dash."""
    return NOTHING if share is None else f"{100 * share:.1f}"


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
