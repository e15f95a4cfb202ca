"""PyTorch's file format before 1.6: five pickles, then the storages."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from mmap import mmap

from bdscan.load.pickle import storage
from bdscan.load.pickle.effects import follow_all
from bdscan.load.pickle.opcodes import MAX_STEPS, follow_one
from bdscan.load.pickle.records import PersistentId, PickleTrace

MAGIC = 0x1950A86A20F9469CFC6C
_PREFIX = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
_PICKLES = 5  # magic number, protocol version, system, object, storage keys


@dataclass(frozen=True)
class LegacyFile:
    """The pickles, and where each storage lies."""

    traces: tuple[PickleTrace, ...]
    end: int  # where the file ought to end
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # key -> first byte, byte after the last
    problem: str = ""  # why the storages cannot be located

    @property
    def main(self) -> PickleTrace:
        return self.traces[3] if len(self.traces) > 3 else self.traces[-1]


def is_legacy(head: bytes) -> bool:
    """Whatever protocol the magic number is pickled in."""
    if head.startswith(_PREFIX):
        return True
    return head[:1] == b"\x80" and follow_one(head, 0, len(head), 8).value == MAGIC


def split(data: bytes | mmap) -> LegacyFile:
    """Follows the five pickles and locates the storages; damage is told, not raised."""
    traces: list[PickleTrace] = []
    position, steps = 0, MAX_STEPS
    for _ in range(_PICKLES):
        trace = follow_one(data, position, len(data), steps)
        traces.append(trace)
        steps -= trace.steps
        position = trace.end
        if trace.broken:
            return LegacyFile(
                tuple(traces), position, problem=f"its pickle number {len(traces)} breaks off: {trace.broken}"
            )
    system = traces[2].value
    if isinstance(system, dict) and system.get("little_endian") is False:
        return LegacyFile(tuple(traces), position, problem="it was written on a big-endian machine")
    return _located(data, tuple(traces), position)


def _located(data: bytes | mmap, traces: tuple[PickleTrace, ...], position: int) -> LegacyFile:
    sizes = _sizes(traces[3].persistent_ids)
    keys = traces[4].value
    spans: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in sizes:
            return LegacyFile(traces, position, spans, "its list of storages does not fit its tensors")
        if position + 8 > len(data):
            return LegacyFile(traces, position, spans, "it ends before its last tensor: it is truncated")
        count = struct.unpack("<q", data[position : position + 8])[0]
        stop = position + 8 + count * sizes[key]
        if count < 0 or stop > len(data):
            return LegacyFile(
                traces, position, spans, f"it ends before its last tensor: storage `{key[:40]}` declares {count} values"
            )
        spans[key] = (position + 8, stop)
        position = stop
    return LegacyFile(traces, position, spans)


def _sizes(persistent_ids: list[PersistentId]) -> dict[str, int]:
    """Bytes per value of each storage, by key; where two tensors disagree the first counts, as it does for torch."""
    return {
        address.key: address.width for address in map(storage.parse, reversed(persistent_ids)) if address is not None
    }


def trailing_pickles(data: bytes | mmap, end: int) -> list[PickleTrace]:
    """The pickles among what follows the last storage, if any stand there."""
    return [trace for trace in follow_all(data, end) if not trace.broken or trace.names]
