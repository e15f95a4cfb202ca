"""PyTorch files: the owner's own tree of entries with the cleaned tensors in it, or a plain state dict."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdscan.load.assembly.tensors import tree
from bdscan.load.assembly.unwrap import Rebuild, Weights, strip
from bdscan.load.contents import Contents
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import mapping
from bdscan.write.file_tensors import Tensors
from bdscan.write.values import NotPlain, OldTensor, PlainValues

_AVERAGED = re.compile(r"(^|[^a-z])ema([^a-z]|$)", re.IGNORECASE)
_MAX_NAMES = 5  # names a sentence can hold


def save(place: Path, value: object) -> None:
    """As `torch.save` writes it, the same bytes every time."""
    with place.open("xb") as file:  # a path would put its own, temporary, name into the archive
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # what the disk said, behind what the writer made of it
                raise error.__context__ from None
            raise


def filled(contents: Contents, weights: Weights, net: nn.Module, new: Tensors) -> tuple[object, list[str]]:
    """What is to be saved, and what had to be left out or done otherwise."""
    if contents.format == "pt2" or "module" in weights.metadata:
        return _state_dict(net, weights.prefix, new), [f"the {_STATE_DICT_NOTES.get(contents.format, _PICKLED_NOTE)}"]
    value, rebuild = tree(contents)
    for path in _paths(value, weights.wrapper):
        records = _tensor_records(path[-1], rebuild)
        if {weights.prefix + name for name in weights.tensors} <= set(records):
            try:
                return _TreeCopy(rebuild, weights, new, path).copy(records)
            except NotPlain:  # an object of some class stands on the way
                return _state_dict(net, weights.prefix, new), [f"the {_PICKLED_NOTE}"]
    raise AssertionError("the weights are not where they were read")


_PICKLED_NOTE = "pickled object is written as a state dict: its class belongs to its owner"
_STATE_DICT_NOTES = {
    "torchscript": "TorchScript program is written as a state dict: its code is not what is cleaned",
    "pt2": "exported program is written as a state dict: its code is not what is cleaned",
}


def _state_dict(net: nn.Module, prefix: str, new: Tensors) -> dict[str, Tensor]:
    """Under the file's names, with the versions that the loading of the net's layers goes by."""
    result: Any = OrderedDict((prefix + name, tensor) for name, tensor in new.items())
    versions = getattr(net.state_dict(), "_metadata", {})
    result._metadata = OrderedDict(((prefix + name).rstrip("."), version) for name, version in versions.items())
    return result  # type: ignore[no-any-return]


def _paths(value: object, wrapper: str | None) -> Iterator[list[object]]:
    """What one goes through to the entry of that dotted name; keys may hold dots themselves."""
    if wrapper is None:
        yield [value]
        return
    for key, part in _entries(value).items():
        if str(key) == wrapper:
            yield [value, part]
        elif wrapper.startswith(f"{key}."):
            for path in _paths(part, wrapper.removeprefix(f"{key}.")):
                yield [value, *path]


def _entries(value: object) -> Mapping[object, object]:
    return dict(enumerate(value)) if isinstance(value, list | tuple) else mapping(value) or {}


def _tensor_records(value: object, rebuild: Rebuild) -> Mapping[str, object]:
    """The records of tensors in a table, by name."""
    entries = mapping(value) or {}
    return {key: part for key, part in entries.items() if isinstance(key, str) and rebuild(part) is not None}


class _TreeCopy:
    """Goes from the root of the file to its weights; what stands beside the way is kept only if it can hold none."""

    def __init__(self, rebuild: Rebuild, weights: Weights, new: Tensors, path: Sequence[object]) -> None:
        self._rebuild, self._weights, self._new, self._path = rebuild, weights, new, path
        self._replace: dict[int, Tensor] = {}
        self._values = PlainValues(rebuild, self._replace)
        self._notes: list[str] = []

    def copy(self, records: Mapping[str, object]) -> tuple[object, list[str]]:
        self._replace_records(records, self._weights.prefix)
        result = self._descend(0, "")
        dropped = [quoted(place) for place in self._values.dropped]
        if dropped:
            more = f" and {len(dropped) - _MAX_NAMES} more" if len(dropped) > _MAX_NAMES else ""
            are = "are left out: they are" if len(dropped) > 1 else "is left out: it is"
            self._notes.append(f"{', '.join(dropped[:_MAX_NAMES])}{more} {are} more than plain values")
        return result, self._notes

    def _replace_records(self, records: Mapping[str, object], prefix: str) -> None:
        """These records are read as the new tensors from now on."""
        for name, tensor in self._new.items():
            record = records[prefix + name]
            old = self._rebuild(record)
            assert old is not None
            self._replace[id(record)] = tensor.to(old.dtype)

    def _descend(self, depth: int, place: str) -> object:
        value = self._path[depth]
        listed = isinstance(value, list | tuple)
        result: dict[object, object] = {} if listed else self._values.table(value)
        for key, part in _entries(value).items():
            where = f"{place}[{key}]" if listed else f"{place}.{key}" if place else str(key)
            if depth + 1 < len(self._path) and part is self._path[depth + 1]:
                result[key] = self._descend(depth + 1, where)
            else:
                self._keep_beside(result, key, part, where)
        if not isinstance(value, list | tuple):
            return result
        kept = [result.get(i) for i in range(len(value))]  # what cannot stay leaves its place empty: others keep theirs
        return tuple(kept) if isinstance(value, tuple) else kept

    def _keep_beside(self, result: dict[object, object], key: object, part: object, place: str) -> None:
        if id(part) not in self._replace:
            if "optim" in str(key).lower() and not isinstance(part, str):
                self._notes.append(f"{quoted(place)} is left out: the optimiser's state belongs to the old weights")
                return
            self._replace_twin(part, place)
        try:
            self._values.entry(result, key, part, place)
        except OldTensor:
            self._notes.append(f"{quoted(place)} is left out: it holds tensors of the old model")

    def _replace_twin(self, part: object, place: str) -> None:
        """Weights beside their average are what most code loads, so the cleaned ones take their place as well."""
        records = {} if _AVERAGED.search(place) else _tensor_records(part, self._rebuild)
        tensors = {name: self._rebuild(record) for name, record in records.items()}
        if not tensors:
            return
        stripped, prefix = strip({name: tensor for name, tensor in tensors.items() if tensor is not None})
        if _shapes(stripped) == _shapes(self._weights.tensors):
            self._replace_records(records, prefix)
            self._notes.append(f"{quoted(place)} holds a second set of the weights: the cleaned ones stand there too")


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
