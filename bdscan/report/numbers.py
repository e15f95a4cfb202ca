"""Strangers' words and measured numbers, made fit to print."""

from __future__ import annotations

import math
import unicodedata

from bdscan.report import Report

# Control, bidirectional, surrogate: what can rewrite the lines around it.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def plain(text: object, limit: int = 2000) -> str:
    """A stranger's text on one line, with everything invisible made visible and an end to it."""
    visible = "".join(_visible(char) for char in str(text)[: limit + 1])
    return visible if len(visible) <= limit else visible[: limit - 3] + "..."


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN:
        return char
    return " " if char in "\n\t" else char.encode("unicode_escape", "surrogatepass").decode("ascii")


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def percent(share: float | None) -> str:
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def named(report: Report, target: int) -> str:
    """The class by number and, where it has one, by name."""
    names = report.subject.names
    if not 0 <= target < len(names):
        return f"class {target}"
    return "class {} `{}`".format(target, plain(names[target], 80).replace("`", "'"))
