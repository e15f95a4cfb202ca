"""What the net calls its classes, in its own order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bdscan.facts.problem import unusable

_MAX_DIGITS = 9  # of a class's number
_MAX_BYTES = 64 << 20  # of a list of names: a million of them


def read(path: Path, classes: int | None = None) -> tuple[str, ...]:
    """`--classes FILE`: one name a line, or JSON: a list, or names by index, or indices by name.

    As many as the net has; None where there is no net yet.
    """
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= _MAX_BYTES):
            raise unusable(f"`{path}` is no list of class names")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unusable(f"`{path}` cannot be read: {error}") from None
    names = (
        _json(text, path) if text.lstrip().startswith(("[", "{")) else tuple(map(str.strip, text.strip().splitlines()))
    )
    if not names or not all(names):
        raise unusable(f"`{path}` has a class without a name")
    if classes is not None and len(names) != classes:
        message = f"`{path}` has {len(names)} classes, the net {classes}"
        raise unusable(message, "give every class of the net, in the net's order")
    if len(set(names)) < len(names):
        raise unusable(f"`{path}` names a class twice")
    return names


def stated(config: Mapping[str, object] | None, metadata: Mapping[str, object], classes: int) -> tuple[str, ...]:
    """The names that stand in the file or its `config.json`; none if they are missing, incomplete or placeholders."""
    facts = {**metadata, **(config or {})}
    for key in ("id2label", "label_names", "class_names", "classes", "idx_to_class", "class_to_idx"):
        names = _listed(facts.get(key))
        placeholders = tuple(f"LABEL_{i}" for i in range(classes))  # of transformers, when nobody named the classes
        if len(names) == classes and len(set(names)) == classes and names != placeholders:
            return names
    return ()


def _json(text: str, path: Path) -> tuple[str, ...]:
    try:
        names = _listed(json.loads(text))
    except (ValueError, RecursionError):
        raise unusable(f"`{path}` is not readable JSON") from None
    if not names:
        raise unusable(f"`{path}` is neither a list of names nor a table of them by index")
    return names


def _listed(value: object) -> tuple[str, ...]:
    """A list of names, a table from index to name, or one from name to index."""
    if isinstance(value, list | tuple):
        return tuple(map(_text, value))
    if not isinstance(value, Mapping):
        return ()
    by_index = {_index(key): _text(name) for key, name in value.items()}
    if None in by_index:
        by_index = {_index(index): _text(name) for name, index in value.items()}
    if set(by_index) != set(range(len(value))):
        return ()
    return tuple(by_index[i] for i in range(len(value)))


def _text(value: object) -> str:
    """A name that can be written down: half a character of UTF-16 cannot."""
    return str(value).encode("utf-8", "replace").decode()


def _index(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None
