"""Keras files: the same configuration, with the cleaned numbers where the old ones stood."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.archive.keras_outline import WEIGHTS
from bdscan.load.contents import Contents
from bdscan.load.keras.file import KerasFile, datasets
from bdscan.load.keras.model import graph_of
from bdscan.load.onnx.net import build, without_softmax
from bdscan.write.tensors_file import origin
from bdscan.write.traced import index_of, numbers, with_state

_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes every time


@dataclass(frozen=True, eq=False)
class KerasMap:
    """Which number of the file each number of the net is."""

    path: Path
    file: KerasFile
    slots: Mapping[str, Tensor]  # the file's arrays of fractions, by path
    index: Mapping[str, Tensor]  # for each tensor of the net: places in the slots, laid end to end
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, contents: Contents, net: nn.Module) -> KerasMap:
        path = contents.weights
        file = KerasFile.read(path)
        slots = {name: array for name, array in file.arrays.items() if array.is_floating_point() and array.numel()}

        def numbered(digit: int) -> Mapping[str, Tensor]:
            at, arrays = 0, dict(file.arrays)
            for name, array in slots.items():
                arrays[name] = numbers(at, array.numel(), digit).view(array.shape)
                at += array.numel()
            graph, _ = without_softmax(graph_of(file, arrays))
            return dict(build(graph).state_dict())

        return cls(path, file, slots, index_of(net, _flat(slots), numbered, path))

    def save(self, place: Path, state: Mapping[str, Tensor], old: Mapping[str, Tensor], sha256: str) -> float:
        """Writes the file; gives back the coarsest rounding among the types of its arrays."""
        flat, changed = with_state(_flat(self.slots), self.index, state, old)
        new: dict[str, Tensor] = {}
        at = 0
        for name, array in self.slots.items():
            span = slice(at, at + array.numel())
            if bool(changed[span].any()):
                new[name] = flat[span].view(array.shape)
            at = span.stop
        return self._zip(place, new, sha256) if self.file.zipped else self._hdf5(place, new, sha256)

    def _hdf5(self, place: Path, new: Mapping[str, Tensor], sha256: str) -> float:
        import h5py

        shutil.copyfile(self.path, place)
        with h5py.File(place, "r+") as file:
            return _fill(file, file["model_weights"], new, sha256)

    def _zip(self, place: Path, new: Mapping[str, Tensor], sha256: str) -> float:
        import h5py

        with zipfile.ZipFile(self.path) as old, place.open("xb") as stream, zipfile.ZipFile(stream, "w") as written:
            inner = io.BytesIO(old.read(WEIGHTS))
            with h5py.File(inner, "r+") as file:
                rounding = _fill(file, file, new, sha256)
            for entry in old.infolist():
                data = inner.getvalue() if entry.filename == WEIGHTS else old.read(entry)
                written.writestr(zipfile.ZipInfo(entry.filename, _DATE), data)
        return rounding


def _fill(file: Any, group: Any, new: Mapping[str, Tensor], sha256: str) -> float:
    """Every array in its place and its type."""
    rounding = 0.0
    for path, part in datasets(group):
        if path in new:
            values = new[path].numpy().astype(part.dtype)
            if not bool(torch.isfinite(torch.from_numpy(values.astype("f8"))).all()):
                raise Problem(f"the cleaned array `{path}` holds NaN or infinity as the file's number type has it")
            part[...] = values
            rounding = max(rounding, torch.finfo(torch.from_numpy(values).dtype).eps)
    for key, value in origin(sha256).items():
        file.attrs[key] = value
    return rounding


def _flat(slots: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([array.flatten() for array in slots.values()]) if slots else torch.empty(0)
