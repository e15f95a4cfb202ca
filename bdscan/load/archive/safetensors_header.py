"""The header of a safetensors file, checked more strictly than its readers do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from mmap import mmap

from bdscan.facts.deadline import check_time
from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import unique_keys
from bdscan.load.danger import Danger

_MAX_HEADER = 25 << 20  # bytes; a net of ten thousand tensors needs one megabyte, the library's own limit is 100 MB
_MAX_PAIRS = 500_000  # a hundred thousand tensors take four each
_MAX_ITEMS = 2_000_000  # and their shapes and offsets some more
TYPES = {  # name in the file -> bits of a value, and torch's name; none where torch has no arithmetic for it
    "F64": (64, "float64"),
    "F32": (32, "float32"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "C64": (64, "complex64"),
    "I64": (64, "int64"),
    "I32": (32, "int32"),
    "I16": (16, "int16"),
    "I8": (8, "int8"),
    "U64": (64, "uint64"),
    "U32": (32, "uint32"),
    "U16": (16, "uint16"),
    "U8": (8, "uint8"),
    "BOOL": (8, "bool"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F6_E2M3": (6, ""),
    "F6_E3M2": (6, ""),
    "F4": (4, ""),
}


def read(data: mmap | bytes) -> Mapping[str, object]:
    """The header as JSON; its offsets have been checked against the file."""
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER:
        raise Problem(f"its safetensors header declares {length:,} bytes, more than any model needs")
    if 8 + length > len(data):
        raise Problem("it ends before its safetensors header does: it is truncated", hint="fetch the file again")
    text = data[8 : 8 + length]
    if text.count(b":") > _MAX_PAIRS or text.count(b",") > _MAX_ITEMS:
        raise Problem("its safetensors header describes more tensors than any model has")
    try:
        header = unique_keys.parsed(text)
    except unique_keys.DuplicateKey as error:
        raise Problem(f"its safetensors header names {error} twice") from None
    except (ValueError, RecursionError):
        raise Problem("its safetensors header is not readable JSON") from None
    if not isinstance(header, dict):
        raise Problem("its safetensors header is not readable JSON")
    _check(header, len(data) - 8 - length)
    return header


def metadata(header: Mapping[str, object]) -> dict[str, str]:
    """What the writer noted beside the tensors."""
    entry = header.get("__metadata__", {})
    return {str(k): v for k, v in entry.items() if isinstance(v, str)} if isinstance(entry, dict) else {}


def spans(header: Mapping[str, object]) -> list[tuple[int, int, str]]:
    """First byte, byte after the last, name: in the order of the file."""
    return sorted((*_offsets(entry), name) for name, entry in header.items() if name != "__metadata__")


def dangers(header: Mapping[str, object], size: int) -> Iterator[Danger]:
    """What a reader would accept, though no writer does it."""
    entry = header.get("__metadata__", {})
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        yield Danger(Level.SUSPECT, "its metadata are not plain text", "header")


def _check(header: Mapping[str, object], available: int) -> None:
    """Offsets must lie one after another from the first data byte to the last, as the format demands."""
    at = 0
    for start, stop, name in spans(header):
        check_time()
        shown = f"`{ascii(name)[1:-1][:80]}`"
        if stop > available:
            message = f"its tensor {shown} lies beyond the end of the file: it is truncated"
            raise Problem(message, hint="fetch the file again")
        if start != at:
            raise Problem(f"its tensor {shown} {'overlaps' if start < at else 'leaves a gap after'} the one before it")
        if not _shape_fits(header[name], stop - start):
            raise Problem(f"its tensor {shown} declares a shape that does not fit its bytes")
        at = stop
    if at != available:
        raise Problem(f"{available - at:,} bytes follow its last tensor, which safetensors forbids")


def _offsets(entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise Problem("its safetensors header describes something that is no tensor")
    if offsets[1] < offsets[0]:
        raise Problem("its safetensors header describes a tensor that ends before it begins")
    return offsets[0], offsets[1]


def _shape_fits(entry: object, size: int) -> bool:
    shape, dtype = (entry.get("shape"), entry.get("dtype")) if isinstance(entry, dict) else (None, None)
    if not isinstance(shape, list) or len(shape) > 64 or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        return False
    bits = TYPES[dtype][0] if isinstance(dtype, str) and dtype in TYPES else 0
    return bits > 0 and bits * math.prod(shape) == size * 8
