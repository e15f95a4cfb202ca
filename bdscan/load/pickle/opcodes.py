"""Runs a pickle on the inert machine, opcode by opcode."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from mmap import mmap

from bdscan.facts.deadline import check_time
from bdscan.load.pickle.interpreter import BrokenPickle, ExcessivePickle, Interpreter, StopOpcode
from bdscan.load.pickle.records import PickleTrace

# A state dict takes a few thousand steps, BackdoorBench's largest files under a million; this is two seconds' worth.
MAX_STEPS = 3_000_000
_STEPS_BETWEEN_LOOKS = 1 << 16  # at the clock


def follow_one(data: bytes | mmap, start: int, end: int, max_steps: int = MAX_STEPS) -> PickleTrace:
    """Never raises: what stopped it stands in `broken`, beside all that was seen before."""
    interpreter = Interpreter(data, start, end)
    trace = interpreter.trace
    try:
        for trace.steps in range(max_steps):
            if not trace.steps % _STEPS_BETWEEN_LOOKS:
                check_time()
            position = interpreter.position
            if position >= end:
                raise BrokenPickle("it ends too early")
            interpreter.position = position + 1
            step = _STEPS.get(data[position])
            if step is None:
                raise BrokenPickle(f"byte 0x{data[position]:02x} is no pickle opcode")
            step(interpreter)
        trace.broken, trace.excessive = f"it takes more than {max_steps:,} steps", True
    except StopOpcode:
        pass
    except BrokenPickle as error:
        trace.broken, trace.excessive = str(error), isinstance(error, ExcessivePickle)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        # The real unpickler would fail here too: stack underflow, missing memo, malformed text.
        trace.broken = f"malformed ({type(error).__name__})"
    trace.end = interpreter.position
    return trace


_STEPS: dict[int, Callable[[Interpreter], object]] = {
    ord(code): step
    for code, step in {
        pickle.PROTO: Interpreter.set_protocol,
        pickle.FRAME: Interpreter.frame,
        pickle.STOP: Interpreter.stop,
        pickle.MARK: Interpreter.mark,
        pickle.POP: Interpreter.pop,
        pickle.POP_MARK: lambda m: m.drop(m.since_mark()),
        pickle.DUP: lambda m: m.push_again(m.stack[-1]),
        pickle.GLOBAL: Interpreter.global_,
        pickle.STACK_GLOBAL: Interpreter.stack_global,
        pickle.EXT1: lambda m: m.extension("<B"),
        pickle.EXT2: lambda m: m.extension("<H"),
        pickle.EXT4: lambda m: m.extension("<i"),
        pickle.REDUCE: Interpreter.reduce,
        pickle.NEWOBJ: lambda m: m.reduce(new=True),
        pickle.NEWOBJ_EX: Interpreter.newobj_ex,
        pickle.INST: Interpreter.inst,
        pickle.OBJ: Interpreter.obj,
        pickle.BUILD: Interpreter.build,
        pickle.PERSID: lambda m: m.persistent(m.line().decode("ascii", "replace")),
        pickle.BINPERSID: lambda m: m.persistent(m.stack.pop()),
        pickle.EMPTY_DICT: lambda m: m.push_new({}),
        pickle.EMPTY_LIST: lambda m: m.push_new([]),
        pickle.EMPTY_SET: lambda m: m.push_new(set()),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.DICT: Interpreter.dict_,
        pickle.LIST: lambda m: m.push_new(m.since_mark()),
        pickle.TUPLE: lambda m: m.push_new(tuple(m.since_mark())),
        pickle.FROZENSET: Interpreter.frozen,
        pickle.TUPLE1: lambda m: m.tuple_(1),
        pickle.TUPLE2: lambda m: m.tuple_(2),
        pickle.TUPLE3: lambda m: m.tuple_(3),
        pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.extend(m.since_mark()),
        pickle.ADDITEMS: lambda m: m.extend(m.since_mark()),
        pickle.SETITEM: Interpreter.setitem,
        pickle.SETITEMS: lambda m: m.update(m.since_mark()),
        pickle.PUT: lambda m: m.put(int(m.digits())),
        pickle.BINPUT: lambda m: m.put(m.number("<B")),
        pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
        pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
        pickle.GET: lambda m: m.push_again(m.memo[int(m.digits())]),
        pickle.BINGET: lambda m: m.push_again(m.memo[m.number("<B")]),
        pickle.LONG_BINGET: lambda m: m.push_again(m.memo[m.number("<I")]),
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.INT: Interpreter.int_text,
        pickle.BININT: lambda m: m.push(m.number("<i")),
        pickle.BININT1: lambda m: m.push(m.number("<B")),
        pickle.BININT2: lambda m: m.push(m.number("<H")),
        pickle.LONG: lambda m: m.push(int(m.digits().rstrip("L"), 0)),
        pickle.LONG1: lambda m: m.push(int.from_bytes(m.sized("<B"), "little", signed=True)),
        pickle.LONG4: lambda m: m.push(int.from_bytes(m.sized("<i"), "little", signed=True)),
        pickle.FLOAT: lambda m: m.push(float(m.digits())),
        pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        pickle.STRING: Interpreter.quoted,
        # Python 2 strings are text here, as `torch.load` reads them.
        pickle.BINSTRING: lambda m: m.push(m.sized("<i").decode("utf-8", "replace")),
        pickle.SHORT_BINSTRING: lambda m: m.push(m.sized("<B").decode("utf-8", "replace")),
        pickle.UNICODE: lambda m: m.push(m.line().decode("raw-unicode-escape")),
        pickle.BINUNICODE: lambda m: m.push(m.sized("<I").decode("utf-8", "surrogatepass")),
        pickle.SHORT_BINUNICODE: lambda m: m.push(m.sized("<B").decode("utf-8", "surrogatepass")),
        pickle.BINUNICODE8: lambda m: m.push(m.sized("<Q").decode("utf-8", "surrogatepass")),
        pickle.BINBYTES: lambda m: m.push_bytes(m.sized("<I")),
        pickle.SHORT_BINBYTES: lambda m: m.push_bytes(m.sized("<B")),
        pickle.BINBYTES8: lambda m: m.push_bytes(m.sized("<Q")),
        pickle.BYTEARRAY8: lambda m: m.push_bytes(m.sized("<Q")),
        pickle.READONLY_BUFFER: lambda m: m.stack[-1],
    }.items()
}
