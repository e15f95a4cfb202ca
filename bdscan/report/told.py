"""Values out of a mapping that somebody else filled, each fit to print whatever it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real

from bdscan.report import Report
from bdscan.report.numbers import named, number, percent, plain

_MOST = 50  # entries of a list


def which(report: Report, entry: Mapping[str, object]) -> str:
    """The class that the entry is about."""
    target = entry.get("target")
    return named(report, int(target)) if isinstance(target, Integral) else "an unknown class"


def held(holder: Mapping[str, object], key: str) -> Mapping[str, object]:
    """The mapping under the key, or an empty one."""
    inner = holder.get(key)
    return inner if isinstance(inner, Mapping) else {}


def some(told: object) -> Iterable[object]:
    """As many entries as a reader can bear."""
    return told[:_MOST] if isinstance(told, list | tuple) else ()


def share(value: object) -> str:
    """A share in percent, a word as it is, nothing as a dash."""
    return percent(float(value)) if isinstance(value, Real) else plain("-" if value is None else value)


def figure(value: object) -> str:
    """Four significant digits, or a dash."""
    return number(float(value)) if isinstance(value, Real) else "-"
