"""Weights that are split over several safetensors files, with an index that says which tensor lies where."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from bdscan.facts.problem import Problem

INDEX = "model.safetensors.index.json"
_MAX_INDEX = 25 << 20  # bytes, as for a safetensors header: it names the same tensors
_MAX_SHARDS = 1000  # files


def read_index(index: Path) -> dict[str, str]:
    """Tensor name -> file name; a `Problem` where the index is none, or points out of its folder."""
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise Problem(f"`{index}` is too long for an index of tensors")
        index_json = json.loads(index.read_text(encoding="utf-8"))
        weight_map = index_json["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Problem(f"`{index}` is not readable as an index of tensors") from None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise Problem(f"`{index}` does not say where the tensors lie")
    for name in shard_files(weight_map):
        if Path(name).name != name or not name.endswith(".safetensors") or "\\" in name or "\0" in name:
            raise Problem(f"`{index}` names a file that is none of its folder's: `{ascii(name)[1:-1][:80]}`")
    return weight_map


def shard_files(weight_map: Mapping[str, str]) -> list[str]:
    """The files, sorted by name: the order in which they are hashed."""
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MAX_SHARDS:
        raise Problem(f"its index names {len(shards):,} files, more than any model needs")
    return shards


def check_index(weight_map: Mapping[str, str], tensors: Mapping[str, Collection[str]]) -> None:
    """Each tensor lies in the file that the index says, and in no other: else two readers would read two models."""
    for file, names in tensors.items():
        listed = {name for name, shard in weight_map.items() if shard == file}
        if wrong := sorted(listed.symmetric_difference(names)):
            shown = ascii(wrong[0])[1:-1][:80]
            where = "the index does not say so" if wrong[0] in names else "it is not there"
            raise Problem(f"index and files disagree about the tensor `{shown}` in `{file}`: {where}")
