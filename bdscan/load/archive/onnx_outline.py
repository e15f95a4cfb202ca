"""Recognises an ONNX file by the outline of its protobuf message."""

from __future__ import annotations

from mmap import mmap

from bdscan.facts.problem import Problem

# Fields of ModelProto in onnx.proto3: number -> wire type, 0 for a number and 2 for what has a length.
_FIELDS = dict.fromkeys((1, 5), 0) | dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), 2)
_GRAPH = 7
_MAX_FIELDS = 10_000


def is_onnx(data: bytes | mmap) -> bool:
    """By its top-level protobuf fields: true for a whole model, a `Problem` for one that is cut off."""
    if data[:1] != b"\x08":  # ir_version comes first in every writer's files
        return False
    position, numbers = 0, set[int]()
    for _ in range(_MAX_FIELDS):
        if position >= len(data):
            break
        tag, position = _varint(data, position)
        number = tag >> 3
        if _FIELDS.get(number) != tag & 7:
            return False
        numbers.add(number)
        length, position = _varint(data, position)
        position += length if tag & 7 == 2 else 0
    if position > len(data) and len(numbers) > 1:
        raise Problem("it is an ONNX file that ends too early: it is truncated", hint="fetch the file again")
    return _GRAPH in numbers


def _varint(data: bytes | mmap, position: int) -> tuple[int, int]:
    """A protobuf integer and where the next one starts; past the end it reads as zero."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position + shift // 7] if position + shift // 7 < len(data) else 0
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    return 1 << 63, position + 10
