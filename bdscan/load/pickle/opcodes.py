"""Runs a pickle on the inert machine, opcode by opcode."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from mmap import mmap

from bdscan.load.pickle.machine import Broken, Machine, Stop
from bdscan.load.pickle.records import Walk

# A state dict takes a few thousand steps and BackdoorBench's largest files under a million; this is a second's worth.
MOST_STEPS = 2_000_000


def walk(data: bytes | mmap, start: int, end: int, most: int = MOST_STEPS) -> Walk:
    """Never raises: what stopped it stands in `broken`, beside all that was seen before."""
    machine = Machine(data, start, end)
    found = machine.walk
    try:
        for found.steps in range(most):
            at = machine.at
            if at >= end:
                raise Broken("it ends too early")
            machine.at = at + 1
            step = _STEPS.get(data[at])
            if step is None:
                raise Broken(f"byte 0x{data[at]:02x} is no pickle opcode")
            step(machine)
        found.broken = f"it takes more than {most:,} steps"
    except Stop:
        pass
    except Broken as error:
        found.broken = str(error)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        # the real unpickler would fail here too: stack underflow, missing memo, malformed text
        found.broken = f"malformed ({type(error).__name__})"
    found.end = machine.at
    return found


_STEPS: dict[int, Callable[[Machine], object]] = {
    ord(code): step
    for code, step in {
        pickle.PROTO: lambda m: m.take(1),
        pickle.FRAME: lambda m: m.take(8),
        pickle.STOP: Machine.stop,
        pickle.MARK: Machine.mark,
        pickle.POP: Machine.pop,
        pickle.POP_MARK: Machine.since_mark,
        pickle.DUP: lambda m: m.push(m.stack[-1]),
        pickle.GLOBAL: Machine.global_,
        pickle.STACK_GLOBAL: Machine.stack_global,
        pickle.EXT1: lambda m: m.extension("<B"),
        pickle.EXT2: lambda m: m.extension("<H"),
        pickle.EXT4: lambda m: m.extension("<i"),
        pickle.REDUCE: Machine.reduce,
        pickle.NEWOBJ: Machine.reduce,
        pickle.NEWOBJ_EX: Machine.newobj_ex,
        pickle.INST: Machine.inst,
        pickle.OBJ: Machine.obj,
        pickle.BUILD: Machine.build,
        pickle.PERSID: lambda m: m.persistent(m.line().decode("ascii", "replace")),
        pickle.BINPERSID: lambda m: m.persistent(m.stack.pop()),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.EMPTY_SET: lambda m: m.push(set()),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.DICT: Machine.dict_,
        pickle.LIST: lambda m: m.push(m.since_mark()),
        pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
        pickle.FROZENSET: Machine.frozen,
        pickle.TUPLE1: lambda m: m.tuple_(1),
        pickle.TUPLE2: lambda m: m.tuple_(2),
        pickle.TUPLE3: lambda m: m.tuple_(3),
        pickle.APPEND: Machine.append,
        pickle.APPENDS: lambda m: m.extend(m.since_mark()),
        pickle.ADDITEMS: lambda m: m.extend(m.since_mark()),
        pickle.SETITEM: Machine.setitem,
        pickle.SETITEMS: lambda m: m.update(m.since_mark()),
        pickle.PUT: lambda m: m.put(int(m.line())),
        pickle.BINPUT: lambda m: m.put(m.number("<B")),
        pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
        pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
        pickle.GET: lambda m: m.push(m.memo[int(m.line())]),
        pickle.BINGET: lambda m: m.push(m.memo[m.number("<B")]),
        pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("<I")]),
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.INT: Machine.int_text,
        pickle.BININT: lambda m: m.push(m.number("<i")),
        pickle.BININT1: lambda m: m.push(m.number("<B")),
        pickle.BININT2: lambda m: m.push(m.number("<H")),
        pickle.LONG: lambda m: m.push(int(m.line().rstrip(b"L"), 0)),
        pickle.LONG1: lambda m: m.long("<B"),
        pickle.LONG4: lambda m: m.long("<i"),
        pickle.FLOAT: lambda m: m.push(float(m.line())),
        pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        pickle.STRING: Machine.quoted,
        pickle.BINSTRING: lambda m: m.old_text("<i"),
        pickle.SHORT_BINSTRING: lambda m: m.old_text("<B"),
        pickle.UNICODE: lambda m: m.push(m.line().decode("raw-unicode-escape")),
        pickle.BINUNICODE: lambda m: m.text("<I"),
        pickle.SHORT_BINUNICODE: lambda m: m.text("<B"),
        pickle.BINUNICODE8: lambda m: m.text("<Q"),
        pickle.BINBYTES: lambda m: m.raw("<I"),
        pickle.SHORT_BINBYTES: lambda m: m.raw("<B"),
        pickle.BINBYTES8: lambda m: m.raw("<Q"),
        pickle.BYTEARRAY8: lambda m: m.raw("<Q"),
    }.items()
}
