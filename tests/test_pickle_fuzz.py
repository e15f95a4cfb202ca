"""The pickle reader beside C's own unpickler, whose names are stubs: it misses no import, no call and no value.

    BDSCAN_FUZZ_CASES=50000 python -m pytest -m slow -s tests/test_pickle_fuzz.py

follows as many pickles, written at random or damaged from honest ones, and prints what came of them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import io
import os
import pathlib
import pickle
import random
import resource
import struct
import time
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdscan.facts.finding import Level
from bdscan.load.pickle.allowlist import vouched
from bdscan.load.pickle.effects import dangers
from bdscan.load.pickle.interpreter import MAX_NAME
from bdscan.load.pickle.opcodes import follow_one
from bdscan.load.pickle.records import CallRecord, GlobalName, PersistentId, PickleTrace

MAX_SECONDS = 5.0
_MAX_DEPTH = 8


class Events:
    """What the real unpickler asked for."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.calls_of_results = 0


class Made:
    """What a stub makes."""

    origin: tuple[str, str]
    events: Events
    arguments: tuple[object, ...]
    new: bool
    state: object = None
    pairs: dict[object, object] | None = None

    def __new__(cls, *arguments: object, **keywords: object) -> Made:
        cls.events.calls[cls.origin] += 1
        return cls.made(arguments, new=True)

    @classmethod
    def made(cls, arguments: tuple[object, ...], *, new: bool) -> Made:
        made: Made = object.__new__(cls)
        made.arguments, made.new = arguments, new
        return made

    def __call__(self, *arguments: object) -> Made:
        type(self).events.calls_of_results += 1
        return type(self).made(arguments, new=False)

    def __setstate__(self, state: object) -> None:
        if isinstance(self.state, dict) and isinstance(state, dict):
            self.state.update(state)
        else:
            self.state = dict(state) if isinstance(state, dict) else state

    def __setitem__(self, key: object, value: object) -> None:
        self.pairs = {} if self.pairs is None else self.pairs
        self.pairs[key] = value

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


class Stub(type):
    """A name: called, it notes that it was."""

    def __call__(cls, *arguments: object) -> Made:
        cls.events.calls[cls.origin] += 1  # type: ignore[attr-defined]
        made: Made = cls.made(arguments, new=False)  # type: ignore[attr-defined]
        return made


class Stored:
    """A persistent id."""

    def __init__(self, pid: object) -> None:
        self.pid = pid


class Recording(pickle.Unpickler):
    def __init__(self, data: bytes, events: Events) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="replace")
        self.events = events

    def find_class(self, module: str, name: str) -> Any:
        self.events.names.add((module, name))
        return Stub("Stub", (Made,), {"origin": (module, name), "events": self.events})

    def persistent_load(self, pid: object) -> object:
        return Stored(pid)


@contextlib.contextmanager
def at_most(more: int) -> Iterator[None]:
    """No more than so many bytes beside what the process has."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run(data: bytes) -> tuple[Events, object, bool]:
    """What C's unpickler does, what it makes, and whether it came to the end."""
    events = Events()
    try:
        with at_most(1 << 30):  # it makes room for as many memos as a number in the file says
            return events, Recording(data, events).load(), True
    except Exception:  # whatever damage makes of it
        return events, None, False


def alike(real: object, ours: object, depth: int = 0) -> bool:
    """Whether the record is one of the very value."""
    if depth > _MAX_DEPTH:
        return True
    deeper: Callable[[object, object], bool] = lambda a, b: alike(a, b, depth + 1)  # noqa: E731
    if isinstance(real, Made):
        if not isinstance(ours, CallRecord) or not deeper(real.arguments, ours.arguments):
            return False
        return deeper(real.state, ours.state) and deeper(real.pairs, ours.pairs)
    if isinstance(real, Stored):
        return isinstance(ours, PersistentId) and deeper(real.pid, ours.pid)
    if isinstance(real, Stub):
        return isinstance(ours, GlobalName) and ours in either(real.origin)  # type: ignore[attr-defined]
    if isinstance(real, list | tuple):
        return isinstance(ours, list | tuple) and len(real) == len(ours) and all(map(deeper, real, ours))
    if isinstance(real, dict):
        return isinstance(ours, dict) and deeper(list(real.values()), list(ours.values()))
    if isinstance(real, bytes | bytearray | memoryview):
        return isinstance(ours, bytes) and bytes(real) == ours
    if isinstance(real, float):
        return isinstance(ours, float) and (real == ours or real != real)
    return real == ours or isinstance(ours, PersistentId | set | frozenset)


def either(origin: tuple[str, str]) -> set[GlobalName]:
    """The name, and what Python 3 makes of it where it is one of Python 2's."""
    origin = origin[0][:MAX_NAME], origin[1][:MAX_NAME]
    module, name = NAME_MAPPING.get(origin, origin)
    return {GlobalName(*origin), GlobalName(IMPORT_MAPPING.get(module, module), name)}


def missed(data: bytes, trace: PickleTrace) -> str:
    """What the real unpickler did that the trace does not know of; empty where there is nothing."""
    if any("readers" in note for note in trace.suspicious_opcodes):
        return ""  # it says that it cannot know
    events, value, finished = run(data)
    names = {origin: either(origin) & trace.names.keys() for origin in events.names}
    if lost := [origin for origin, found in names.items() if not found]:
        return f"the import of {lost[0]}"
    seen = Counter(call.maker for call in trace.calls if isinstance(call.maker, GlobalName))
    for origin, count in events.calls.items():
        if sum(seen[name] for name in names[origin]) < count:
            return f"a call of {origin}"
    if events.calls_of_results and not any(isinstance(call.maker, CallRecord) for call in trace.calls):
        return "a call of what a call gave"
    foreign = events.calls_of_results or any(not any(map(vouched, names[origin])) for origin in events.calls)
    if foreign and max((danger.level for danger in dangers(trace, "")), default=Level.NOTE) < Level.SUSPECT:
        return "a danger"
    if finished and trace.broken and not trace.excessive:
        return f"the end: {trace.broken}"
    if finished and not trace.broken and not alike(value, trace.value):
        return f"a value: {str(value)[:80]}"
    return ""


def honest() -> list[bytes]:
    """Pickles of what stands in checkpoints, in every protocol."""
    tensors = {"conv.weight": torch.ones(2, 2), "n": torch.tensor(3)}
    values = [
        {"a": [1, 2.5, None, True], "b": (b"bytes", "text", -(2**70)), "c": {1, 2}, "d": frozenset({"x"})},
        collections.OrderedDict(a=1, b=collections.Counter("abca")),
        {"args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")), "at": datetime.datetime(2026, 1, 1)},
        {"m": np.arange(4.0), "s": np.float32(3), "g": np.random.default_rng(0)},
        tensors,
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()),
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)]


NAMES = [
    *[("os", "system"), ("builtins", "getattr"), ("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage")],
    *[("collections", "OrderedDict"), ("__builtin__", "eval"), ("copy_reg", "_reconstructor"), ("mine", "Net")],
    *[("functools", "partial"), ("types", "SimpleNamespace"), ("torch.storage", "_load_from_bytes"), ("a.b", "C.d")],
]


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value.encode())]) + value.encode()


def written(draw: random.Random) -> bytes:
    """A pickle of opcodes that mostly make sense."""

    def line() -> bytes:
        return draw.choice([b"5", b"01", b"010", b"-0x1f", b"5\x00junk", b"1_0", b" 7 ", b"", b"00"]) + b"\n"

    def name() -> tuple[str, str]:
        return draw.choice(NAMES)

    makers: list[Callable[[], bytes]] = [
        *[lambda: b"N", lambda: b"]", lambda: b"}", lambda: b")", lambda: b"(", lambda: b"\x8f", lambda: b"\x88"],
        *[lambda: b"K" + bytes([draw.randrange(256)]), lambda: b"I" + line(), lambda: b"L" + line(), lambda: b"F1.5\n"],
        *[lambda: text(draw.choice(["a", "os", "system", "__setstate__"])), lambda: b"C\x02ab", lambda: b"S'os'\n"],
        lambda: "c{}\n{}\n".format(*name()).encode(),
        lambda: b"".join(map(text, name())) + b"\x93",
        lambda: "i{}\n{}\n".format(*name()).encode(),
    ]
    takers = [b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"R", b"\x81", b"\x92", b"o", b"b", b"a", b"e", b"s", b"u"]
    takers += [b"\x90", b"\x91", b"0", b"1", b"2", b"Q", b"\x98", b"\x94", b"q\x00", b"q\x01", b"h\x00", b"h\x01"]
    takers += [b"p0\n", b"g0\n", b"g1\x00\n", b"r\x02\x00\x00\x00", b"j\x02\x00\x00\x00", b"R", b"R", b"b", b"t"]
    parts = [draw.choice([b"", b"\x80\x02", b"\x80\x04", b"\x80\x05", b"\x80\x00"])]
    length = draw.randrange(2, 40)
    parts += [draw.choice(makers)() if draw.random() < 0.55 else draw.choice(takers) for _ in range(length)]
    return b"".join(parts) + b"."


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A few bytes changed, dropped, doubled or put in."""
    copy = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(copy) + 1)
        kind, length = draw.randrange(5), draw.randrange(1, 9)
        if kind == 0 and at < len(copy):
            copy[at] = draw.randrange(256)
        elif kind == 1:
            del copy[at : at + length]
        elif kind == 2:
            copy[at:at] = copy[at : at + length]
        elif kind == 3:
            copy[at:at] = "c{}\n{}\n".format(*draw.choice(NAMES)).encode() + b"(tR"
        else:
            copy[at:at] = struct.pack("<I", draw.randrange(1 << 32))[:length]
    return bytes(copy)


def fuzz(cases: int, seed: int) -> tuple[Counter[str], list[tuple[bytes, str]]]:
    """How many came to their end, and what was missed."""
    draw, seeds, counts, misses = random.Random(seed), honest(), Counter[str](), list[tuple[bytes, str]]()
    for _ in range(cases):
        data = written(draw) if draw.random() < 0.5 else damaged(draw, draw.choice(seeds))
        begun = time.perf_counter()
        trace = follow_one(data, 0, len(data))
        list(dangers(trace, ""))
        slow = time.perf_counter() - begun > MAX_SECONDS
        reason = "it took too long" if slow else missed(data, trace)
        counts["cases"] += 1
        counts["ended" if not trace.broken else "broken off"] += 1
        if reason:
            misses.append((data, reason))
    return counts, misses


def test_honest_pickles_are_followed_to_the_value_that_they_make() -> None:
    for data in honest():
        trace = follow_one(data, 0, len(data))
        assert not missed(data, trace)
        assert not trace.broken


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_missed_that_the_real_unpickler_does(seed: int) -> None:
    counts, misses = fuzz(400, seed)
    assert not misses, misses[0]
    assert counts["ended"] > 5 and counts["broken off"] > 5


@pytest.mark.slow
def test_nothing_is_missed_in_many_pickles() -> None:
    cases = int(os.environ.get("BDSCAN_FUZZ_CASES", "5000"))
    counts, misses = fuzz(cases, seed=10_000)
    print(dict(counts), "missed:", len(misses))
    assert not misses, misses[:3]
