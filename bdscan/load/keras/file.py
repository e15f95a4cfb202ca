"""A Keras file as plain data: its configuration, and each array under its path."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem
from bdscan.load.archive import keras_outline
from bdscan.load.archive.keras_outline import CONFIG, WEIGHTS
from bdscan.load.archive.zips import Archive
from bdscan.load.pickle.effects import quoted

_MAX_OBJECTS = 100_000  # groups and arrays
_MAX_DEPTH = 32
_MAX_EXPANSION = 20  # weights hardly compress
_OPTIMISER = "optimizer/"  # what the training kept for itself, no part of the net
_ALWAYS_ALLOWED = 64 << 20  # bytes
_FILTERS = (1, 2, 3)  # of HDF5: deflate, shuffle, a checksum; others come as programs of their own


@dataclass(frozen=True, eq=False)
class KerasFile:
    """All that is needed of it."""

    config: object
    arrays: Mapping[str, Tensor]  # by path; those of a `.h5` below `model_weights`
    names: Mapping[str, str]  # group -> the layer's own name, where the group has another
    zipped: bool
    keras: int  # its first version number: defaults have changed between them

    @classmethod
    def read(cls, path: Path) -> KerasFile:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return cls._zip(data) if data[:2] == b"PK" else cls._hdf5(data)
            except Problem as problem:
                raise Problem(f"`{path}` cannot be read: {problem.message}", hint=problem.hint) from None
            except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:  # h5py's
                raise Problem(f"`{path}` cannot be read: its HDF5 is damaged ({type(error).__name__})") from error

    @classmethod
    def _zip(cls, data: mmap.mmap) -> KerasFile:
        archive = Archive(data)
        archive.require_one_reading()
        parts = {name: archive.find(name) for name in (CONFIG, WEIGHTS)}
        config, weights = parts[CONFIG], parts[WEIGHTS]
        if config is None or weights is None:
            raise Problem("it lacks its configuration or its weights")
        inner = archive.read(weights, _ALWAYS_ALLOWED + _MAX_EXPANSION * len(data))
        with keras_outline.opened(inner) as file:
            arrays, names = _arrays(file, len(inner))
        return cls(keras_outline.parsed(archive.read(config, keras_outline.MAX_CONFIG)), arrays, names, True, 3)

    @classmethod
    def _hdf5(cls, data: mmap.mmap) -> KerasFile:
        with keras_outline.opened(data) as file:
            config = keras_outline.config_in(file)
            version = file.attrs.get("keras_version", b"2")
            link = file.get("model_weights", getlink=True)
            if not _hard(link):
                raise Problem("it holds no weights")
            arrays, names = _arrays(file["model_weights"], len(data))
        text = version.decode() if isinstance(version, bytes) else str(version)
        return cls(config, arrays, names, False, 3 if text.startswith("3") else 2)


def datasets(group: Any) -> Iterator[tuple[str, Any]]:
    """Every array and group below, by path: no link is followed, here or to other files."""
    waiting, count = [("", group)], 0
    while waiting:
        prefix, here = waiting.pop()
        for name in here:
            check_time()
            count += 1
            path = f"{prefix}{name}"
            if count > _MAX_OBJECTS or path.count("/") > _MAX_DEPTH:
                raise Problem("its groups are nested without end")
            if not _hard(here.get(name, getlink=True)):
                raise Problem(f"its {quoted(path)} is a link to somewhere else")
            part = here[name]
            yield path, part
            if not hasattr(part, "shape"):
                waiting.append((f"{path}/", part))


def _hard(link: object) -> bool:
    import h5py

    return isinstance(link, h5py.HardLink)


def _arrays(group: Any, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    arrays: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    left = _ALWAYS_ALLOWED + _MAX_EXPANSION * size
    for path, part in datasets(group):
        if not hasattr(part, "shape"):
            own = part.attrs.get("name")
            names[path] = own.decode() if isinstance(own, bytes) else own if isinstance(own, str) else ""
            continue
        if path.startswith(_OPTIMISER):
            continue
        left -= _bytes(path, part)
        if left < 0:
            raise Problem("its arrays together declare far more than the file holds")
        array = np.asarray(part[()])
        if array.dtype.kind not in "fiub":
            continue  # text, such as the vocabulary of a layer that is refused anyway
        arrays[path] = torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else np.array(array))
    return arrays, names


def _bytes(path: str, part: Any) -> int:
    """How many it takes; a `Problem` where they lie elsewhere or are packed by a program."""
    kept = part.id.get_create_plist()
    filters = [kept.get_filter(i)[0] for i in range(kept.get_nfilters())]
    if part.is_virtual or part.external or any(each not in _FILTERS for each in filters):
        raise Problem(f"its array {quoted(path)} lies outside the file, or is packed in an unusual way")
    return int(part.size or 0) * int(part.dtype.itemsize)
