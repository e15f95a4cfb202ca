"""Weights that are split over several safetensors files, with an index that says which tensor lies where."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from bdscan.facts.problem import Problem

INDEX = "model.safetensors.index.json"
_LONGEST = 25 << 20  # bytes, as for a safetensors header: it names the same tensors
_MOST = 1000  # files


def listed(index: Path) -> dict[str, str]:
    """Tensor name -> file name; a `Problem` where the index is none, or points out of its folder."""
    try:
        if index.stat().st_size > _LONGEST:
            raise Problem(f"`{index}` is too long for an index of tensors")
        held = json.loads(index.read_text(encoding="utf-8"))
        places = held["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Problem(f"`{index}` is not readable as an index of tensors") from None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise Problem(f"`{index}` does not say where the tensors lie")
    for name in files_of(places):
        if Path(name).name != name or not name.endswith(".safetensors") or "\\" in name or "\0" in name:
            raise Problem(f"`{index}` names a file that is none of its folder's: `{ascii(name)[1:-1][:80]}`")
    return places


def files_of(places: Mapping[str, str]) -> list[str]:
    """The files, sorted by name: the order in which they are hashed."""
    found = sorted(set(places.values()))
    if len(found) > _MOST:
        raise Problem(f"its index names {len(found):,} files, more than any model needs")
    return found


def agree(places: Mapping[str, str], held: Mapping[str, Collection[str]]) -> None:
    """Each tensor lies in the file that the index says, and in no other: else two readers would read two models."""
    for file, names in held.items():
        said = {name for name, place in places.items() if place == file}
        if wrong := sorted(said.symmetric_difference(names)):
            shown = ascii(wrong[0])[1:-1][:80]
            where = "the index does not say so" if wrong[0] in names else "it is not there"
            raise Problem(f"index and files disagree about the tensor `{shown}` in `{file}`: {where}")
