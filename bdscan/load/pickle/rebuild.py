"""Tensors as views of the file's own bytes, every declared size checked before anything is allocated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from mmap import mmap

import torch
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, GlobalName, PersistentId, StorageAddress, bytes_of, storage_address

ByteRange = tuple[mmap | bytearray, int, int]  # a buffer, the first byte and the one after the last
Locate = Callable[[str], ByteRange | None]  # where the storage of that key lies
_MAX_USES = 8  # how often, on average, each byte of a file may be used: tied weights and EMA copies stay far below
_SLACK = 1 << 20
_REFUSED = {
    "_rebuild_qtensor": "quantised",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_meta_tensor_no_storage": "empty (meta)",
}
_REFUSED |= {"_rebuild_wrapper_subclass": "of a class of its own", "_rebuild_nested_tensor": "nested"}


def flat_tensor(source: ByteRange, kind: torch.dtype) -> Tensor:
    """All values between two bytes; a copy only where they are not aligned."""
    data, start, stop = source
    count = (stop - start) // kind.itemsize
    if count == 0:
        return torch.empty(0, dtype=kind)
    if start % kind.itemsize:
        data, start = bytearray(data[start:stop]), 0
    return torch.frombuffer(data, dtype=kind, count=count, offset=start)


def torch_dtype(name: str) -> torch.dtype:
    """A torch type by its name in a file."""
    value = getattr(torch, name, None) if re.fullmatch(r"[a-z]\w*", name) else None
    if not isinstance(value, torch.dtype):
        raise Problem(f"its tensors are of an unknown type, {quoted(name)}")
    return value


class TensorRebuilder:
    """Turns the inert records of tensor-rebuilding calls into tensors; everything else is left as it is."""

    def __init__(self, locate: Locate, size: int) -> None:
        self._locate = locate
        self._flat_tensors: dict[tuple[str, torch.dtype], Tensor] = {}
        self._tensors: dict[int, tuple[Tensor | None, object]] = {}  # the record is kept, so that its id stays its own
        self._embedded_files: dict[int, legacy.LegacyFile] = {}
        self._budget = _MAX_USES * size + _SLACK  # bytes

    def tensor(self, value: object) -> Tensor | None:
        """The tensor that `value` describes; None where it describes something else."""
        if id(value) not in self._tensors:
            self._tensors[id(value)] = (self._tensor(value), value)
        return self._tensors[id(value)][0]

    def _tensor(self, value: object) -> Tensor | None:
        for _ in range(4):  # a parameter around a tensor subclass around a tensor
            if not isinstance(value, CallRecord) or not isinstance(value.maker, GlobalName):
                return None
            name, arguments = value.maker.name, value.arguments
            if not isinstance(arguments, tuple) or value.maker.module not in (
                "torch._utils",
                "torch._tensor",
                "torch.nn.parameter",
            ):
                return None
            if name in _REFUSED:
                raise _refused(_REFUSED[name])
            if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
                return self._view(name, arguments)
            if name == "_rebuild_from_type_v2" and len(arguments) > 2 and isinstance(arguments[0], GlobalName):
                value = CallRecord(arguments[0], arguments[2])
            elif name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Buffer") and arguments:
                value = arguments[0]
            else:
                return None
        return None

    def _view(self, name: str, arguments: tuple[object, ...]) -> Tensor:
        if len(arguments) < 4:
            raise Problem("it describes a tensor without a shape")
        kind = None
        if name == "_rebuild_tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], GlobalName):
            kind = torch_dtype(arguments[6].name)
        values = self._values(arguments[0], kind)
        return self.view(values, arguments[1], dimensions(arguments[2]), dimensions(arguments[3]))

    def view(self, values: Tensor, offset: object, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
        """Bounds first: a view may neither leave its storage nor repeat it."""
        if type(offset) is not int or offset < 0 or len(shape) != len(stride) or len(shape) > 64:
            raise Problem("it describes a tensor with an impossible shape")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if count else 0
        if count > len(values) or (count and last >= len(values)):
            raise Problem(f"it describes a tensor of {count:,} values where the file holds {len(values):,}")
        self._budget -= count * values.element_size()
        if self._budget < 0:
            raise Problem("its tensors together declare far more than the file holds")
        return values.as_strided(
            shape if count else (0,) * len(shape) if 0 not in shape else shape, stride, offset if count else 0
        )

    def _values(self, stored: object, kind: torch.dtype | None) -> Tensor:
        locate = self._locate
        if isinstance(stored, CallRecord):
            stored, locate = self._embedded_storage(stored)
        address = storage_address(stored) if isinstance(stored, PersistentId) else None
        if address is None:
            raise Problem("it describes a tensor whose values lie nowhere")
        if address.dtype.startswith(("qint", "quint")):
            raise _refused("quantised")
        kind = kind or torch_dtype(address.dtype)
        loaded = self._flat_tensors.get((address.key, kind)) if locate is self._locate else None
        return self._load(address, kind, locate) if loaded is None else loaded

    def _load(self, address: StorageAddress, kind: torch.dtype, locate: Locate) -> Tensor:
        source = locate(address.key)
        if source is None:
            raise Problem(f"the values of tensor storage {quoted(address.key)} are missing")
        size, needed = source[2] - source[1], address.count * address.width
        if needed > size:
            raise Problem(f"it declares a tensor storage of {needed:,} bytes where the file holds {size:,}")
        values = flat_tensor(source, kind)
        if locate is self._locate:
            self._flat_tensors[address.key, kind] = values
        return values

    def _embedded_storage(self, call: CallRecord) -> tuple[object, Locate]:
        """A storage that `pickle.dump` packed as a whole torch file of its own."""
        packed = bytes_of(call.first)
        loader = str(call.maker) == "torch.storage._load_from_bytes"
        if not loader or packed is None or not legacy.is_legacy(packed[:64]):
            raise Problem("it describes a tensor whose values lie nowhere")
        if id(call.first) not in self._embedded_files:
            self._embedded_files[id(call.first)] = legacy.split(packed)
        parts = self._embedded_files[id(call.first)]
        if parts.problem:
            raise Problem(parts.problem)

        def locate(key: str) -> ByteRange | None:
            span = parts.spans.get(key)
            return (bytearray(packed[span[0] : span[1]]), 0, span[1] - span[0]) if span else None

        return parts.main.value, locate


def _refused(kind: str) -> Problem:
    return Problem(f"it holds a tensor that is {kind}", hint="save the net with plain float tensors")


def dimensions(value: object) -> tuple[int, ...]:
    """A shape or stride: a tuple, a list or a torch.Size of small whole numbers."""
    value = value.first if isinstance(value, CallRecord) else value
    if not isinstance(value, tuple | list) or not all(type(n) is int and 0 <= n < 1 << 48 for n in value):
        raise Problem("it describes a tensor with an impossible shape")
    return tuple(value)
