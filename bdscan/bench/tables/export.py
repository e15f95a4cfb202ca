"""Tables as a web page that needs nothing else, and as one long CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape

from bdscan.bench.tables.grid import Grid

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


def html(grids: Sequence[Grid]) -> str:
    """No script, no request."""
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
