"""Inert records back into the plain values that `torch.load(weights_only=True)` takes; nothing else passes."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.assembly.unwrap import Rebuild
from bdscan.load.pickle.rebuild import dimensions, torch_dtype
from bdscan.load.pickle.records import CallRecord, GlobalName, mapping

_MAX_DEPTH = 64
_MAX_BYTES = 4096  # bytes; more could be a pickle of weights
_MAX_ITEMS = 100_000  # numbers in a list; curves of a training run are shorter, weights are longer
_TABLES: Mapping[str, Callable[[], dict[Any, Any]]] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "collections.defaultdict": dict,
}


class OldTensor(Exception):
    """A tensor of the old model (or of its optimiser) is among the values."""


class NotPlain(Exception):
    """A value that is not plain: an object of some class, or one without end."""


class PlainValues:
    """Converts one tree; what its entries share stays shared."""

    def __init__(self, rebuild: Rebuild, replace: Mapping[int, Tensor]) -> None:
        self._rebuild = rebuild
        self._replace = replace  # by the identity of the inert record
        self._converted: dict[int, object] = {}
        self._in_progress: set[int] = set()
        self.dropped: list[str] = []  # the dotted places of what was odd

    def plain(self, value: object, place: str = "") -> object:
        """The value, less the odd entries of its tables; raises `OldTensor` or `NotPlain` for what cannot be kept."""
        if value is None or isinstance(value, bool | int | float | complex | str):
            return value
        if isinstance(value, bytes):
            return _short(value)
        if id(value) in self._in_progress or len(self._in_progress) > _MAX_DEPTH:
            raise NotPlain
        if id(value) not in self._converted:
            self._in_progress.add(id(value))
            try:
                self._converted[id(value)] = self._compound(value, place)
            finally:
                self._in_progress.discard(id(value))
        return self._converted[id(value)]

    def _compound(self, value: object, place: str) -> object:
        if isinstance(value, list | tuple):
            if len(value) > _MAX_ITEMS:
                raise NotPlain
            parts = [self.plain(part, place) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        if isinstance(value, GlobalName) and value.module == "torch":
            return _dtype(value)
        tensor = self._rebuild(value)
        if tensor is not None:
            return self._tensor(value, tensor)
        if isinstance(value, CallRecord) and value.pairs is None:
            converter = _CONVERTERS.get(str(value.maker))
            if converter:
                return converter(value.arguments)
        return self._table(value, place)

    def _tensor(self, value: object, tensor: Tensor) -> Tensor:
        """A weight gives way to its new value; of the others, only single numbers can be no weights."""
        new = self._replace.get(id(value))
        if new is None and tensor.numel() > 1:
            raise OldTensor
        result = tensor.clone() if new is None else new
        parameter = isinstance(value, CallRecord) and str(value.maker).startswith("torch._utils._rebuild_parameter")
        return nn.Parameter(result, requires_grad=result.is_floating_point()) if parameter else result

    def _table(self, value: object, place: str) -> dict[object, object]:
        result = self.table(value)
        for key, part in _entries(value).items():
            self.entry(result, key, part, f"{place}.{key}" if place else str(key))
        return result

    def table(self, value: object) -> dict[object, object]:
        """An empty table of the same kind, with what was noted on it: layers' loading goes by its `_metadata`."""
        if isinstance(value, dict):
            return {}
        if not isinstance(value, CallRecord) or str(value.maker) not in _TABLES:
            raise NotPlain
        result = _TABLES[str(value.maker)]()
        if isinstance(value.state, dict) and isinstance(result, OrderedDict):
            metadata = self.plain(value.state)
            result.__dict__.update(metadata if isinstance(metadata, dict) else {})
        return result

    def entry(self, result: dict[object, object], key: object, part: object, place: str) -> None:
        """One entry of a table, left out where it is odd."""
        try:
            result[self.plain(key)] = self.plain(part, place)
        except (NotPlain, Problem):
            self.dropped.append(place)


def _entries(value: object) -> Mapping[object, object]:
    if (
        isinstance(value, CallRecord)
        and str(value.maker) == "collections.Counter"
        and isinstance(value.arguments, tuple)
    ):
        return next((counts for counts in value.arguments if isinstance(counts, dict)), {})
    return mapping(value) or {}


def _short(value: bytes) -> bytes:
    if len(value) > _MAX_BYTES:
        raise NotPlain
    return value


def _dtype(name: GlobalName) -> torch.dtype:
    try:
        return torch_dtype(name.name)
    except Problem:
        raise NotPlain from None


def _size(arguments: object) -> torch.Size:
    return torch.Size(dimensions(arguments[0] if isinstance(arguments, tuple) and arguments else arguments))


def _number(arguments: object) -> object:
    """A number of numpy's, as Python's own: best accuracies are often saved so, and `weights_only` refuses them."""
    kind, data = arguments if isinstance(arguments, tuple) and len(arguments) == 2 else (None, None)
    if isinstance(data, CallRecord):
        data = _encoded(data)
    if not isinstance(kind, CallRecord) or not isinstance(kind.state, tuple) or not isinstance(data, bytes):
        raise NotPlain
    code, little = kind.first, kind.state[1:2] in (("<",), ("|",))
    if not little or not isinstance(code, str) or not re.fullmatch(r"[fiub][1248]", code) or len(data) != int(code[1]):
        raise NotPlain
    number: object = np.frombuffer(data, dtype=f"<{code}")[0].item()
    return number


def _encoded(result: CallRecord) -> bytes:
    """`_codecs.encode(text, "latin1")`, as protocol 2 writes bytes."""
    arguments = result.arguments
    if str(result.maker) != "_codecs.encode" or not isinstance(arguments, tuple) or arguments[1:] != ("latin1",):
        raise NotPlain
    if not isinstance(arguments[0], str) or max(arguments[0], default="") > "\xff":
        raise NotPlain
    return _short(arguments[0].encode("latin1"))


_CONVERTERS: Mapping[str, Callable[[object], object]] = {
    "torch.Size": _size,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "_codecs.encode": lambda arguments: _encoded(CallRecord(GlobalName("_codecs", "encode"), arguments)),
}
