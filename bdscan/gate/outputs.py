"""Evidence is never overwritten: what is written may take the place of nothing that is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bdscan.facts.atomic_files import is_device
from bdscan.facts.problem import Problem, unusable
from bdscan.gate.provenance import path_of
from bdscan.load.source.folders import DESCRIPTIONS, INDEX_FILES, WEIGHT_FILES, resolve

_DECIDING = frozenset({*DESCRIPTIONS, *WEIGHT_FILES, *INDEX_FILES})  # a new file of this name changes a model folder


def check_outputs(
    outputs: Iterable[Path], models: Iterable[str], read: Mapping[str, str | Path | None], renewed: Path | None = None
) -> None:
    """Raises `Problem` where an output is an input, one of an input's files, or another output.

    By what it is and not by what it is called: links lead there too. `renewed` may be read and written.
    """
    places = list(outputs)
    for place in places:
        if not is_device(place) and sum(_same(place, other) for other in places) > 1:
            raise unusable(f"`{place}` is named for two things to be written", "give each a file of its own")
    inputs = [("the model", path) for model in models for path in _files(Path(model))]
    inputs += [(role, path_of(str(spec))) for role, spec in read.items() if spec]
    for place in places:
        for role, path in inputs:
            intended = renewed is not None and _same(place, renewed) and role == "baseline"
            if not intended and _would_harm(place, path):
                what = role if role.startswith("the ") else f"what is given as `{role}`"
                raise unusable(f"`{place}` would be written over {what}, which is evidence", "name another file")


def _files(model: Path) -> list[Path]:
    """The model, and whatever its answer depends on."""
    try:
        return [model, *resolve(model).deciding]
    except Problem:
        return [model]


def _would_harm(place: Path, read: Path) -> bool:
    """An input itself or, where that is a folder, any file that lies in it; a device cannot be harmed."""
    if not os.path.isdir(read):  # noqa: PTH112 - unlike Path.is_dir it never raises
        return _same(place, read) and not is_device(place)
    inside = Path(os.path.realpath(place)).is_relative_to(os.path.realpath(read))
    return inside and (os.path.lexists(place) or place.name in _DECIDING)


def _same(place: Path, other: Path) -> bool:
    try:
        return os.path.realpath(place) == os.path.realpath(other) or place.samefile(other)
    except (OSError, ValueError):
        return False
