"""Follows a pickle's opcodes the way the real unpickler would, except that it imports nothing and calls nothing."""

from __future__ import annotations

import struct
import warnings
from _codecs import escape_decode
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from mmap import mmap

from bdscan.load.pickle.records import CallRecord, GlobalName, PersistentId, PickleTrace

_SIMPLE = (str, int, float, bytes, bool, type(None), GlobalName, CallRecord, PersistentId)


MAX_NAME = 200  # characters of a module or of a name in it; no library comes near
_MAX_NAMES = 2_000  # globals; a pickled net with all that trained it asks for about a hundred
_MAX_OBJECTS = 1_000_000  # containers and calls, of about a hundred bytes each
_CALL = 3  # objects that a call counts for: it is looked at again when all have been followed
_MAX_MOVED = 20_000_000  # entries put into containers: the same thousand may be put into a container a thousand times


class BrokenPickle(Exception):
    """The pickle cannot be followed any further."""


class ExcessivePickle(BrokenPickle):
    """It goes on, but it is more than any model needs."""


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
        self.protocol = self.frame_end = 0
        self.objects = self.moved = 0
        self.given: set[int] = set()  # the containers that a call was given, by identity

    def take(self, count: int) -> bytes:
        if count > self.end - self.position or count < 0:
            raise BrokenPickle("it ends too early")
        self.advance(count)
        return self.data[self.position - count : self.position]

    def advance(self, count: int) -> None:
        """C's reader holds a frame as a whole, and forgets what is left of it where more is asked for."""
        if self.position < self.frame_end < self.position + count:
            self.note_suspicious("something in it reaches over the end of a frame, where readers go on differently")
        self.position += count

    def line(self) -> bytes:
        """Without its end: C's reader takes the last character for one where there is none."""
        stop = self.data.find(b"\n", self.position, self.end)
        stop = self.end - 1 if stop < 0 else stop
        if stop < self.position:
            raise BrokenPickle("it ends too early")
        text = self.data[self.position : stop]
        self.advance(stop + 1 - self.position)
        return text

    def digits(self) -> str:
        """A line with a number: C's reader stops at the first NUL."""
        return self.line().partition(b"\0")[0].decode("ascii")

    def sized(self, form: str) -> bytes:
        """What follows its own length."""
        return self.take(self.number(form))

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_new(self, container: object) -> None:
        """A container or the record of a call: what takes memory."""
        self.count_object()
        self.stack.append(container)

    def push_bytes(self, value: bytes) -> None:
        """Somebody may load what is hidden in them."""
        if value[:1] == b"\x80" and value[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            self.trace.packed.append(value)
        self.stack.append(value)

    def count_object(self) -> None:
        self.objects += 1
        if self.objects > _MAX_OBJECTS:
            raise ExcessivePickle(f"it makes more than {_MAX_OBJECTS:,} objects")

    def move(self, count: int) -> None:
        self.moved += count
        if self.moved > _MAX_MOVED:
            raise ExcessivePickle(f"it puts more than {_MAX_MOVED:,} entries into containers")

    def since_mark(self) -> list[object]:
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def stop(self) -> None:
        self.trace.value = self.stack.pop()
        raise StopOpcode

    def set_protocol(self) -> None:
        self.protocol = self.number("<B")

    def frame(self) -> None:
        length = self.number("<Q")
        start, end = self.position, self.position + length
        if end > self.frame_end:
            self.advance(length)
            self.position, self.frame_end = start, end

    # -- names ------------------------------------------------------------

    def name(self, module: object, name: object) -> None:
        """Python 2 names become what the real unpickler would make of them."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.note_suspicious("the name of what it imports is computed while it loads")
            module, name = "?", "?"
        if len(module) > MAX_NAME or len(name) > MAX_NAME:
            self.note_suspicious(f"it imports something by a name of more than {MAX_NAME} characters")
            module, name = module[:MAX_NAME], name[:MAX_NAME]
        if self.protocol < 3:
            module, name = NAME_MAPPING.get((module, name), (module, name))
            module = IMPORT_MAPPING.get(module, module)
        global_name = GlobalName(module, name)
        self.trace.names.setdefault(global_name, self.position)
        if len(self.trace.names) > _MAX_NAMES:
            raise ExcessivePickle(f"it imports more than {_MAX_NAMES:,} names")
        self.push_again(global_name)

    def push_again(self, value: object) -> None:
        """What was there before: a name that is not called from here on was handed on."""
        if isinstance(value, GlobalName):
            self.trace.handed_on[value] += 1
        self.push(value)

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

    def make(self, maker: object, arguments: object, *, new: bool = False) -> None:
        call = CallRecord(maker, arguments, new)
        if isinstance(maker, GlobalName):
            self.trace.handed_on[maker] -= 1
        if isinstance(arguments, tuple) and len(arguments) < MAX_NAME:
            self.given.update(id(part) for part in arguments if isinstance(part, list | dict | set))
        self.trace.calls.append(call)
        self.objects += _CALL - 1
        self.push_new(call)

    def reduce(self, *, new: bool = False) -> None:
        arguments = self.stack.pop()
        self.make(self.stack.pop(), arguments, new=new)

    def newobj_ex(self) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        more = (keywords,) if keywords else ()
        self.make(self.stack.pop(), (*arguments, *more) if isinstance(arguments, tuple) else arguments, new=True)

    def inst(self) -> None:
        self.global_()
        maker = self.stack.pop()
        self.instance(maker, self.since_mark())

    def obj(self) -> None:
        maker, *arguments = self.since_mark()
        self.instance(maker, arguments)

    def instance(self, maker: object, arguments: list[object]) -> None:
        """As protocols 0 and 1 made them: without a constructor where it would be given nothing."""
        self.make(maker, tuple(arguments), new=not arguments)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, CallRecord):
            self.move(len(state) if isinstance(state, dict) else 1)
            target.build(state)
        else:
            self.trace.foreign_targets.append(target)

    def persistent(self, pid: object) -> None:
        stored = PersistentId(pid)
        self.trace.persistent_ids.append(stored)
        self.push(stored)

    # -- containers -------------------------------------------------------

    def mark(self) -> None:
        self.count_object()
        self.marks.append(self.stack)
        self.stack = []

    def extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        self.change(target, len(values))
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(_key, values))
        elif isinstance(target, CallRecord):
            target.extended = True
        else:
            self.trace.foreign_targets.append(target)

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def update(self, flat: list[object]) -> None:
        target = self.stack[-1]
        self.change(target, len(flat))
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(target, dict):
                target[_key(key)] = value
            elif isinstance(target, CallRecord):
                target.put(_key(key), value)
            else:
                self.trace.foreign_targets.append(target)

    def change(self, target: object, count: int) -> None:
        """Puts so many values into a container: whoever was given it has read it already."""
        self.move(count)
        if count and id(target) in self.given:
            self.note_suspicious("it changes what it has given away already, so that readers see different contents")

    def dict_(self) -> None:
        flat = self.since_mark()
        self.push_new({})
        self.update(flat)

    def frozen(self) -> None:
        self.push_new(frozenset(map(_key, self.since_mark())))

    def tuple_(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) != count:
            raise BrokenPickle("malformed (stack)")
        del self.stack[-count:]
        self.push_new(values)

    def pop(self) -> None:
        if self.stack:
            self.drop([self.stack.pop()])
        else:
            self.stack = self.marks.pop()

    def drop(self, values: list[object]) -> None:
        for value in values:
            if isinstance(value, GlobalName):
                self.trace.handed_on[value] -= 1

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # -- literals ---------------------------------------------------------

    def int_text(self) -> None:
        text = self.digits().strip()
        if text in ("00", "01"):
            self.push(text == "01")
        else:
            octal = text.lstrip("+-").startswith("0") and text.lstrip("+-").isdigit()  # C's strtol takes 010 for 8
            self.push(int(text, 8 if octal else 0) if text else 0)  # nothing before a NUL is nought to it

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
