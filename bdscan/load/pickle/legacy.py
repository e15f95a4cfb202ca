"""PyTorch's file format before 1.6: five pickles, then the storages."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from mmap import mmap

from bdscan.load.pickle import storage
from bdscan.load.pickle.effects import follow
from bdscan.load.pickle.opcodes import MOST_STEPS
from bdscan.load.pickle.opcodes import walk as walk_one
from bdscan.load.pickle.records import Persistent, Walk

MAGIC = 0x1950A86A20F9469CFC6C
_PREFIX = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
_PICKLES = 5  # magic number, protocol version, system, object, storage keys


@dataclass(frozen=True)
class Legacy:
    """The pickles, and where each storage lies."""

    walks: tuple[Walk, ...]
    end: int  # where the file ought to end
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # key -> first byte, byte after the last
    problem: str = ""  # why the storages cannot be located

    @property
    def main(self) -> Walk:
        return self.walks[3] if len(self.walks) > 3 else self.walks[-1]


def recognised(head: bytes) -> bool:
    """Whatever protocol the magic number is pickled in."""
    if head.startswith(_PREFIX):
        return True
    return head[:1] == b"\x80" and walk_one(head, 0, len(head), 8).value == MAGIC


def split(data: bytes | mmap) -> Legacy:
    """Follows the five pickles and locates the storages; damage is told, not raised."""
    walks: list[Walk] = []
    at, steps = 0, MOST_STEPS
    for _ in range(_PICKLES):
        walk = walk_one(data, at, len(data), steps)
        walks.append(walk)
        steps -= walk.steps
        at = walk.end
        if walk.broken:
            return Legacy(tuple(walks), at, problem=f"its pickle number {len(walks)} breaks off: {walk.broken}")
    system = walks[2].value
    if isinstance(system, dict) and system.get("little_endian") is False:
        return Legacy(tuple(walks), at, problem="it was written on a big-endian machine")
    return _located(data, tuple(walks), at)


def _located(data: bytes | mmap, walks: tuple[Walk, ...], at: int) -> Legacy:
    sizes = _sizes(walks[3].pids)
    keys = walks[4].value
    spans: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in sizes:
            return Legacy(walks, at, spans, "its list of storages does not fit its tensors")
        if at + 8 > len(data):
            return Legacy(walks, at, spans, "it ends before its last tensor: it is truncated")
        count = struct.unpack("<q", data[at : at + 8])[0]
        stop = at + 8 + count * sizes[key]
        if count < 0 or stop > len(data):
            return Legacy(
                walks, at, spans, f"it ends before its last tensor: storage `{key[:40]}` declares {count} values"
            )
        spans[key] = (at + 8, stop)
        at = stop
    return Legacy(walks, at, spans)


def _sizes(pids: list[Persistent]) -> dict[str, int]:
    """Bytes per value of each storage, by key; where two tensors disagree the first counts, as it does for torch."""
    return {found.key: found.width for found in map(storage.parse, reversed(pids)) if found is not None}


def after(data: bytes | mmap, end: int) -> list[Walk]:
    """The pickles among what follows the last storage, if any stand there."""
    return [walk for walk in follow(data, end) if not walk.broken or walk.names]
