"""HTML that escapes by type: a plain string is a stranger's, only `Markup` goes out as it is."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from bdscan.report import numbers

_VOID = frozenset({"img", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: object) -> Markup:
    """One element; `class_` is `class`, an underscore a hyphen, and an attribute that is None is left out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{pairs}>" if name in _VOID else f"<{name}{pairs}>{join(children)}</{name}>")


def join(children: Iterable[str | None], between: str = "") -> Markup:
    """Children in a row, each escaped unless it is HTML already."""
    return Markup(between.join(child if isinstance(child, Markup) else escape(child) for child in children if child))


def prose(text: str, limit: int = 1000) -> Markup:
    """A message: words as words, literals in backticks as code."""
    parts = numbers.plain(text, limit).split("`")
    if len(parts) % 2 == 0:  # a backtick without its fellow
        parts[-2:] = ["`".join(parts[-2:])]
    return join(tag("code", part) if place % 2 else part for place, part in enumerate(parts))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], kind: str | None = None) -> Markup:
    """A table that scrolls by itself where it is wider than the page."""
    body = join(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else None
    return tag("div", tag("table", top, tag("tbody", body), class_=kind), class_="scroll")


def definitions(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Terms and what there is to say of each."""
    return tag("dl", *(part for term, text in pairs for part in (tag("dt", term), tag("dd", text))))


class Allowance:
    """How many bytes may still be written; from the first piece that is too much, nothing more is."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.refused = 0

    def admit(self, piece: Markup) -> Markup:
        """The piece, or nothing where it is too much."""
        size = len(piece.encode())
        if size > self.left:
            self.left = 0
            self.refused += 1
            return Markup("")
        self.left -= size
        return piece
