"""JSON in which no key stands twice: of two, one reader takes the first and another the last."""

from __future__ import annotations

import json
from collections.abc import Mapping


class DuplicateKey(ValueError):
    """Which one, as it may be shown."""


def parsed(text: bytes) -> object:
    """Of UTF-8; raises `ValueError` or `RecursionError` for what is no sound JSON."""
    return json.loads(text.decode("utf-8"), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise DuplicateKey(ascii(name)[:80])
        seen.add(name)
    return dict(pairs)
