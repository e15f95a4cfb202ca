"""What of a model folder goes along with the cleaned weights: descriptions, never code and never other weights."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

_MAX_BYTES = 4 << 20  # bytes, the most that a `config.json` may have; longer text is no description
_TEXT_SUFFIXES = (".json", ".txt", ".yaml", ".yml")
_TEXT_NAMES = ("license", "license.md", "notice")
_CARD = "readme.md"  # the card takes its place


def copy(source: Path, into: Path, config: Mapping[str, object], weights: str) -> list[str]:
    """Copies the descriptions, and says what stayed behind."""
    left_behind = []
    for path in sorted(source.iterdir()):
        if path.name in (weights, ".gitattributes") or path.name.lower() == _CARD:
            continue
        data = _described(path, source)
        if data is None:
            left_behind.append(path.name)
        else:
            (into / path.name).write_bytes(data)
    notes = _without_code(into / "config.json", config)
    if left_behind:
        shown = ", ".join(f"`{ascii(name)[1:-1][:80]}`" for name in left_behind[:5])
        more = f" and {len(left_behind) - 5} more" if len(left_behind) > 5 else ""
        notes.append(f"{shown}{more} did not go along: only the cleaned weights and short descriptions do")
    return notes


def _described(path: Path, folder: Path) -> bytes | None:
    """The text of a short file that is in the folder, or where a hub's cache keeps the folder's files."""
    if (path.name.lower() not in _TEXT_NAMES and path.suffix.lower() not in _TEXT_SUFFIXES) or path.name.endswith(
        ".index.json"
    ):
        return None
    real = path.resolve()
    home = folder.resolve()
    if real.parent not in (home, home.parent.parent / "blobs"):  # a link elsewhere could publish anybody's file
        return None
    try:
        if not stat.S_ISREG(real.stat().st_mode) or real.stat().st_size > _MAX_BYTES:
            return None
        data = real.read_bytes()
        data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return data


def _without_code(place: Path, config: Mapping[str, object]) -> list[str]:
    """The Python files that `auto_map` names stay behind, and so does the word of them."""
    if place.exists() and "auto_map" not in config:
        return []
    without_code = {key: value for key, value in config.items() if key != "auto_map"}
    place.write_text(json.dumps(without_code, indent=2) + "\n", encoding="utf-8")
    if "auto_map" not in config:
        return []
    return ["`auto_map` was taken out of `config.json`: it asks for Python files, which did not go along"]
