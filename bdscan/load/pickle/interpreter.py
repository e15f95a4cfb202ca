"""Follows a pickle's opcodes the way the real unpickler would, except that it imports nothing and calls nothing."""

from __future__ import annotations

import struct
import warnings
from _codecs import escape_decode
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from mmap import mmap

from bdscan.load.pickle.records import CallRecord, GlobalName, PersistentId, PickleTrace

_SIMPLE = (str, int, float, bytes, bool, type(None), GlobalName, CallRecord, PersistentId)


class BrokenPickle(Exception):
    """The pickle cannot be followed any further."""


class StopOpcode(Exception):  # not an error: the opcode of that name
    pass


class Interpreter:
    """The pickle virtual machine over `data[start:end]`, with inert records for objects."""

    def __init__(self, data: bytes | mmap, start: int, end: int) -> None:
        self.data, self.position, self.end = data, start, end
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.trace = PickleTrace(start)

    def take(self, count: int) -> bytes:
        if count > self.end - self.position or count < 0:
            raise BrokenPickle("it ends too early")
        self.position += count
        return self.data[self.position - count : self.position]

    def line(self) -> bytes:
        stop = self.data.find(b"\n", self.position, self.end)
        if stop < 0:
            raise BrokenPickle("it ends too early")
        text = self.data[self.position : stop]
        self.position = stop + 1
        return text

    def sized(self, form: str) -> bytes:
        """What follows its own length."""
        return self.take(self.number(form))

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def push(self, value: object) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[object]:
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def stop(self) -> None:
        self.trace.value = self.stack.pop()
        raise StopOpcode

    # -- names ------------------------------------------------------------

    def name(self, module: object, name: object) -> None:
        """Python 2 names become what the real unpickler would make of them."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.note_suspicious("the name of what it imports is computed while it loads")
            module, name = "?", "?"
        module, name = NAME_MAPPING.get((module, name), (module, name))
        global_name = GlobalName(IMPORT_MAPPING.get(module, module), name)
        self.trace.names.setdefault(global_name, self.position)
        self.push(global_name)

    def global_(self) -> None:
        self.name(self.line().decode(), self.line().decode())

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def extension(self, form: str) -> None:
        code = self.number(form)
        self.note_suspicious(f"it uses extension code {code}, which stands for whatever the reader registered")
        self.push(GlobalName("?", "extension"))

    def note_suspicious(self, what: str) -> None:
        if len(self.trace.suspicious_opcodes) < 20:
            self.trace.suspicious_opcodes.setdefault(what, self.position)

    # -- objects ----------------------------------------------------------

    def make(self, maker: object, arguments: object) -> None:
        call = CallRecord(maker, arguments)
        self.trace.calls.append(call)
        self.push(call)

    def reduce(self) -> None:
        arguments = self.stack.pop()
        self.make(self.stack.pop(), arguments)

    def newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.reduce()

    def inst(self) -> None:
        self.global_()
        maker = self.stack.pop()
        self.make(maker, tuple(self.since_mark()))

    def obj(self) -> None:
        maker, *arguments = self.since_mark()
        self.make(maker, tuple(arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, CallRecord):
            target.build(state)
        else:
            self.trace.foreign_targets.append(target)

    def persistent(self, pid: object) -> None:
        stored = PersistentId(pid)
        self.trace.persistent_ids.append(stored)
        self.push(stored)

    # -- containers -------------------------------------------------------

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(_key, values))
        elif not isinstance(target, CallRecord):
            self.trace.foreign_targets.append(target)

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def update(self, flat: list[object]) -> None:
        target = self.stack[-1]
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(target, dict):
                target[_key(key)] = value
            elif isinstance(target, CallRecord):
                target.put(_key(key), value)
            else:
                self.trace.foreign_targets.append(target)

    def dict_(self) -> None:
        flat = self.since_mark()
        self.push({})
        self.update(flat)

    def frozen(self) -> None:
        self.push(frozenset(map(_key, self.since_mark())))

    def tuple_(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) != count:
            raise BrokenPickle("malformed (stack)")
        self.stack[-count:] = [values]

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.marks.pop()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # -- literals ---------------------------------------------------------

    def int_text(self) -> None:
        text = self.line()
        if text in (b"00", b"01"):
            self.push(text == b"01")
        else:
            octal = text.lstrip(b"+-").startswith(b"0") and text.lstrip(b"+-").isdigit()  # C's strtol takes 010 for 8
            self.push(int(text, 8 if octal else 0))

    def quoted(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"\"'":
            raise BrokenPickle("malformed (quotes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in the file is nothing to tell a user
            self.push(escape_decode(text[1:-1])[0].decode("utf-8", "replace"))


def _key(value: object) -> object:
    """A dict key whose hash the file cannot make expensive: nested tuples and huge integers count by identity."""
    if isinstance(value, int) and not -(1 << 60) < value < 1 << 60:
        return PersistentId(value)
    flat = isinstance(value, tuple) and len(value) < 10 and all(isinstance(part, str | bytes | None) for part in value)
    return value if flat or isinstance(value, _SIMPLE) else PersistentId(value)
