"""PyTorch's file format before 1.6: five pickles, then the storages."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from mmap import mmap

from bdscan.facts.deadline import check_time
from bdscan.load.pickle.opcodes import MAX_STEPS, follow_one
from bdscan.load.pickle.records import PersistentId, PickleTrace, storage_address

MAGIC = 0x1950A86A20F9469CFC6C
_PREFIX = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
_MAGIC_STEPS = 1000  # within which the magic number must be there; torch takes two
_PICKLES = 5  # magic number, protocol version, system, object, storage keys


@dataclass
class LegacyFile:
    """The pickles, and where each storage lies."""

    traces: list[PickleTrace] = field(default_factory=list)
    end: int = 0  # where the file ought to end
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # key -> first byte, byte after the last
    problem: str = ""  # why the storages cannot be located

    @property
    def main(self) -> PickleTrace:
        return self.traces[3] if len(self.traces) > 3 else self.traces[-1]


def is_legacy(head: bytes) -> bool:
    """Whatever protocol the magic number is pickled in."""
    if head.startswith(_PREFIX):
        return True
    return head[:1] == b"\x80" and follow_one(head, 0, len(head), _MAGIC_STEPS).value == MAGIC


def split(data: bytes | mmap, start: int = 0, stop: int | None = None) -> LegacyFile:
    """Follows the five pickles from `start` on and locates the storages; damage is told, not raised."""
    stop = len(data) if stop is None else stop
    file = LegacyFile(end=start)
    file.problem = _follow(file, data, stop) or _locate(file, data, stop)
    return file


def _follow(file: LegacyFile, data: bytes | mmap, end: int) -> str:
    steps = MAX_STEPS
    for number in range(1, _PICKLES + 1):
        trace = follow_one(data, file.end, end, steps)
        file.traces.append(trace)
        file.end = trace.end
        steps -= trace.steps
        if trace.broken:
            return f"its pickle number {number} breaks off: {trace.broken}"
    system = file.traces[2].value
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    return "it was written on a big-endian machine" if big_endian else ""


def _locate(file: LegacyFile, data: bytes | mmap, end: int) -> str:
    sizes, keys = _sizes(file.traces[3].persistent_ids), file.traces[4].value
    for key in keys if isinstance(keys, list) else ():
        check_time()
        if not isinstance(key, str) or key not in sizes:
            return "its list of storages does not fit its tensors"
        start = file.end + 8
        if start > end:
            return "it ends before its last tensor: it is truncated"
        count = struct.unpack("<q", data[file.end : start])[0]
        stop = start + count * sizes[key]
        if count < 0 or stop > end:
            return f"it ends before its last tensor: storage `{key[:40]}` declares {count} values"
        file.spans[key], file.end = (start, stop), stop
    return ""


def _sizes(persistent_ids: list[PersistentId]) -> dict[str, int]:
    """Bytes per value of each storage, by key; where two tensors disagree the first counts, as it does for torch."""
    addresses = map(storage_address, reversed(persistent_ids))
    return {address.key: address.width for address in addresses if address is not None}
