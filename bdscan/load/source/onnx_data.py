"""In which files beside it an ONNX graph keeps its tensors, read off its protobuf fields without the library."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem

_MAX_FIELDS = 5_000_000  # a graph of ten thousand nodes has about half a million
_MAX_DEPTH = 64  # messages in messages: graphs in the branches of graphs
_ENTRY = "entry"  # a key and a value of what a tensor says of its place
# Message -> field number -> the message in it, of onnx.proto3; all other fields are stepped over.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: _ENTRY},
}


def data_files(path: Path) -> tuple[Path, ...]:
    """Those that are there, in the model's own folder or below; whatever else a graph names, its loader refuses."""
    try:
        with path.open("rb") as file:
            if file.read(1) != b"\x08":  # the version stands first in every writer's files
                return ()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                named = set(_Walk(data).locations("model", 0, len(data)))
    except (OSError, IndexError, ValueError):  # it is no ONNX file, or a damaged one
        return ()
    return tuple(sorted(path.parent / name for name in named if _lies_below(path.parent, name)))


def _lies_below(folder: Path, name: str) -> bool:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        return False
    place, home = folder / name, Path(os.path.realpath(folder))
    return os.path.isfile(place) and Path(os.path.realpath(place)).is_relative_to(home)  # noqa: PTH113 - it never raises


class _Walk:
    """One pass over the messages that can hold tensors."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = _MAX_FIELDS

    def locations(self, message: str, at: int, end: int, depth: int = 0) -> Iterator[str]:
        """The value behind each key `location`; an IndexError or ValueError where the bytes are no such message."""
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        key = ""
        while at < end:
            number, start, at = self._field(at, end)
            inner = _FIELDS.get(message, {}).get(number)
            if inner is not None:
                yield from self.locations(inner, start, at, depth + 1)
            elif message == _ENTRY and number == 1:
                key = bytes(self._data[start:at]).decode("utf-8")
            elif message == _ENTRY and number == 2 and key == "location":
                yield bytes(self._data[start:at]).decode("utf-8")

    def _field(self, at: int, end: int) -> tuple[int, int, int]:
        """Its number, and where its content begins and ends."""
        self._left -= 1
        if self._left < 0:
            raise Problem("it is an ONNX file of more fields than any model needs")
        if self._left % 1024 == 0:
            check_time()
        tag, at = self._varint(at)
        kind = tag & 7
        if kind == 0:
            _, stop = self._varint(at)
        elif kind == 2:
            length, at = self._varint(at)
            stop = at + length
        elif kind in (1, 5):
            stop = at + (8 if kind == 1 else 4)
        else:
            raise ValueError("no field")
        if stop > end:
            raise ValueError("beyond the end")
        return tag >> 3, at, stop

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for place in range(10):
            byte = self._data[at + place]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, at + place + 1
        raise ValueError("no number")
