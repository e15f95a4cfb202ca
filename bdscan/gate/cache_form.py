"""A report as text and arrays, exact to the last digit, and back: by its types, whatever they are."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from datetime import date
from enum import Enum
from functools import cache
from typing import Any

from bdscan.facts.evidence import Array
from bdscan.report import Report

_KIND = "bdscan.cache/2"
_TYPE, _ARRAY = "type", "array"  # keys of a dataclass's name, and of an array's


def packed(key: str, report: Report) -> tuple[bytes, dict[str, Array]]:
    """The text and the arrays beside it."""
    arrays: dict[str, Array] = {}
    text = json.dumps({"kind": _KIND, "key": key, "report": _plain(report, arrays)})
    return text.encode(), arrays


def unpacked(key: str, text: bytes, arrays: Mapping[str, Array]) -> Report | None:
    """The report again; None where the text is of another key or kind."""
    kept = json.loads(text)
    if (kept["kind"], kept["key"]) != (_KIND, key):
        return None
    report: Report = _typed(Report, kept["report"], arrays)
    return report


def _plain(value: Any, arrays: dict[str, Array]) -> Any:
    """Nothing but what JSON knows; arrays stand aside."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
        return {_TYPE: type(value).__name__, **fields}
    if getattr(value, "ndim", 0):
        name = str(len(arrays))
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, arrays) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, arrays) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.item() if hasattr(value, "item") else str(value)  # NumPy's numbers; dates and paths


def _typed(kind: Any, plain: Any, arrays: Mapping[str, Array]) -> Any:
    """The value of that type."""
    if plain is None:
        return None
    if isinstance(plain, dict) and plain.keys() == {_ARRAY}:
        return arrays[plain[_ARRAY]]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _typed(_named(inner, plain), plain, arrays)
    if origin is tuple:
        return tuple(_typed(inner[0], each, arrays) for each in plain)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if kind is date:
        return date.fromisoformat(plain)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{name: _typed(hints[name], each, arrays) for name, each in plain.items() if name != _TYPE})
    return plain


def _named(kinds: tuple[Any, ...], plain: Any) -> Any:
    """The one of several types that the value is of."""
    possible = [kind for kind in kinds if kind is not type(None)]
    name = plain.get(_TYPE) if isinstance(plain, dict) else None
    return next((kind for kind in possible if getattr(kind, "__name__", "") == name), possible[0])


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
