"""What PyTorch's zip files hold, as inert records, and where the bytes of their tensors lie."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.archive.torch_zip import main_pickle
from bdscan.load.archive.zips import Archive
from bdscan.load.pickle.rebuild import ByteRange, TensorRebuilder
from bdscan.load.pickle.records import PickleTrace

# Weights hardly compress: what unpacks to more than so many times the file's size is a bomb, unless it is small.
_MAX_EXPANSION = 20
_ALWAYS_ALLOWED = 64 << 20  # bytes unpacked

Tree = tuple[object, Callable[[object], Tensor | None]]


def mapped(path: Path) -> mmap.mmap:
    """The file's bytes; what is written to them stays here."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # the tensors keep it open


def of_zip(data: bytes | mmap.mmap, part: str = "data") -> Tree:
    """What one of its pickles holds, as inert records, and what makes tensors of those that describe one."""
    archive = Archive(data)
    archive.require_one_reading()
    order = archive.find(f"{archive.root}/byteorder")
    if order is not None and archive.read(order, 16).strip() == b"big":
        raise Problem("it was written on a big-endian machine", hint="save it again on another one")
    unpacked = sum(member.size for member in archive.members if not member.stored)
    if unpacked > _ALWAYS_ALLOWED + _MAX_EXPANSION * len(data):
        raise Problem(f"its members unpack to {unpacked:,} bytes: a zip bomb")
    trace = main_pickle(archive, part)
    rebuilder = TensorRebuilder(lambda key: member_bytes(archive, f"{part}/{key}"), len(data))
    return complete_value(trace), rebuilder.tensor


def member_bytes(archive: Archive, name: str) -> ByteRange | None:
    """The bytes of a stored member where they lie; a compressed one is unpacked within bounds."""
    member = archive.find(f"{archive.root}/{name}")
    if member is None:
        return None
    if member.stored and member.readable and isinstance(archive.data, mmap.mmap):
        return archive.data, member.start, member.stop
    unpacked = bytearray(archive.read(member, member.size))
    return unpacked, 0, len(unpacked)


def complete_value(trace: PickleTrace) -> object:
    if trace.broken:
        raise Problem(f"its pickle breaks off: {trace.broken}")
    return trace.value
