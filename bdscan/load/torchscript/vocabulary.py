"""What the text of a TorchScript program may name: its own classes and functions, and the vouched operators."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from bdscan.load.code.interpreter import Interpreter
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.text import Text
from bdscan.load.code.values import MISSING, Class, Native, Object
from bdscan.load.code.vocabulary import Vocabulary
from bdscan.load.graph import operators
from bdscan.load.graph.record import Recorder, Unknown
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, GlobalName
from bdscan.load.torchscript.archive import Parts
from bdscan.load.torchscript.plain import PLAIN, SETTLED, is_of_lists


@dataclass(frozen=True)
class Path:
    """A dotted name of which nothing is known yet: `__torch__.a.b`, `torch`, `ops.prim`."""

    name: str


@dataclass(frozen=True)
class Type:
    """A type, which decides nothing here."""

    name: str


class ScriptModule(Object):
    """A module of the program: its class from the text, its attributes from the pickle."""

    def __init__(self, kind: Class, record: CallRecord, path: str, vocabulary: Script) -> None:
        self.kind, self._record, self.path, self._vocabulary = kind, record, path, vocabulary

    def read(self, name: str) -> object:
        state = self._record.state
        if name == "training":
            return False
        if not isinstance(state, dict) or name not in state:
            return MISSING
        trainable = name in (self.kind.members.get("__parameters__") or ())  # type: ignore[operator]
        return self._vocabulary.attribute_of(state[name], f"{self.path}.{name}".lstrip("."), trainable=trainable)


class Script(Vocabulary):
    """For one program; what is recorded goes to `recorder`, which may be another one for each attempt."""

    def __init__(self, parts: Parts, steps: int) -> None:
        self.parts, self.steps = parts, steps  # that may still be done
        self.interpreter = Following(self)
        self._texts: dict[str, Text | None] = {}
        self._modules: dict[int, ScriptModule] = {}
        self._named: Mapping[str, object] = {
            **{name: Path(name) for name in ("torch", "ops", "__torch__", "CONSTANTS")},
            **{name: Type(name) for name in ("Module", "NamedTuple", "Tensor", "Optional", "List", "Dict", "Tuple")},
            **{name: Type(name) for name in ("NoneType", "Device", "number", "Any", "Union", "Future", "Final")},
            "annotate": Native("annotate", lambda _, value: value),
            "unchecked_cast": Native("unchecked_cast", lambda _, value: value),
            "uninitialized": Native("uninitialized", lambda _: None),
            "getattr": Native("getattr", lambda value, name: self.interpreter.attribute(value, name)),
            "range": Native("range", self._range),
        }
        self.begin(Recorder((1, 1, 1), 1))

    def begin(self, recorder: Recorder, device: str = "cpu") -> None:
        """Another attempt."""
        self.recorder, self._device, self.asks_device = recorder, device, False
        self._held: dict[int, Tensor] = {}

    def _range(self, *bounds: object) -> object:
        return self.interpreter.call(self.interpreter.builtins["range"], *map(self.settled, bounds))

    def settled(self, value: object) -> object:
        return self.recorder.decide(value)

    # -- names --------------------------------------------------------------

    def name(self, name: str) -> object:
        return self._named.get(name, MISSING)

    def attribute(self, value: object, name: str) -> object:
        if not isinstance(value, Path):
            raise NotFollowed(f"{quoted(name)} of this is not something bdscan follows")
        if value.name == "CONSTANTS":
            return self._constant(name)
        return self.defined(value.name, name)

    def defined(self, qualifier: str, name: str) -> object:
        """What the program's text calls so, else a longer path."""
        if qualifier.partition(".")[0] == "__torch__":
            text = self._text(qualifier)
            if text is not None and name in text:
                return text.find(name)
        return Path(f"{qualifier}.{name}")

    def _text(self, qualifier: str) -> Text | None:
        if qualifier not in self._texts:
            tree = self.parts.syntax(qualifier)
            self._texts[qualifier] = None if tree is None else Text(tree, f"{qualifier}.py", self.interpreter)
        return self._texts[qualifier]

    def _constant(self, name: str) -> object:
        place = int(name[1:]) if name[1:].isdigit() and len(name) < 9 else -1
        if not 0 <= place < len(self.parts.constants):
            raise NotFollowed(f"there is no constant {quoted(name)}")
        tensor = self.parts.constants[place]
        if tensor is None:
            raise NotFollowed(f"the constant {quoted(name)} is no tensor")
        return self._hold(tensor, f"CONSTANTS.{name}", trainable=False)

    def _hold(self, tensor: Tensor, name: str, *, trainable: bool) -> Tensor:
        if id(tensor) not in self._held:
            self._held[id(tensor)] = self.recorder.hold(tensor, name, trainable=trainable)
        return self._held[id(tensor)]

    # -- the tree of modules --------------------------------------------------

    @property
    def root(self) -> object:
        return self.attribute_of(self.parts.tree[0], "", trainable=False)

    def attribute_of(self, value: object, path: str, *, trainable: bool) -> object:
        """What a record stands for."""
        tensor = self.parts.tree[1](value)
        if tensor is not None:
            return self._hold(tensor, path, trainable=trainable)
        if isinstance(value, list | tuple):
            parts = [self.attribute_of(part, path, trainable=trainable) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        if isinstance(value, dict):
            return {key: self.attribute_of(part, path, trainable=trainable) for key, part in value.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, CallRecord) and isinstance(value.maker, GlobalName):
            if value.maker.module == "torch.jit._pickle":  # lists and tables with their types
                return self.attribute_of(value.first, path, trainable=trainable)
            return self._module(value, value.maker, path)
        raise NotFollowed(f"the attribute {quoted(path)} is not something bdscan follows")

    def _module(self, record: CallRecord, maker: GlobalName, path: str) -> ScriptModule:
        if id(record) not in self._modules:
            kind = self.defined(maker.module, maker.name)
            if not isinstance(kind, Class):
                raise NotFollowed(f"the class {quoted(str(maker))} is not in the program's text")
            self._modules[id(record)] = ScriptModule(kind, record, path, self)
        return self._modules[id(record)]

    # -- what is done -----------------------------------------------------------

    def call(self, function: object, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        if not isinstance(function, Path):
            return super().call(function, arguments, named)
        space, _, op = function.name.rpartition(".")
        if space not in ("torch", "ops.aten", "ops.prim"):
            raise Unknown(function.name)
        if op in _DEVICES:
            return self._of_device(op, arguments[0])
        if op in SETTLED:
            return SETTLED[op](*arguments)
        if op in PLAIN and is_of_lists(op, arguments):
            return PLAIN[op](self.interpreter, *map(self._as_key(op), arguments))
        if op == "len":
            return self.recorder.call("size", arguments[0], 0)
        if op in ("min", "max") and len(arguments) == 1 and isinstance(arguments[0], list):
            arguments = arguments[0]
        result = self.recorder.call(op, *arguments, **named)
        return self.interpreter.budget.made(result) if isinstance(result, list) else result

    def _of_device(self, op: str, value: object) -> object:
        """Where the net runs; a program that asks is followed for more than one place."""
        if op == "type" or isinstance(value, str):
            return str(value).partition(":")[0] if op == "type" else value
        self.asks_device = True
        return self._device if op == "device" else self._device != "cpu"

    def _as_key(self, op: str) -> Callable[[object], object]:
        """Where a number says which entry is meant, it must be settled."""
        return (
            self.settled if op in ("__getitem__", "_set_item", "slice", "pop", "insert", "mul") else lambda value: value
        )

    def truth(self, value: object) -> bool:
        value = self.settled(value)
        if isinstance(value, Tensor) and value.numel() == 1:
            return bool(value)
        if isinstance(value, bool | int | float):
            return bool(value)
        return super().truth(value)

    def number(self, kind: type, value: object) -> object:
        return self.recorder.call({int: "Int", float: "Float"}[kind], value)

    def item(self, value: object, key: object) -> object:
        return value if isinstance(value, Type) else super().item(value, key)


class Following(Interpreter):
    """TorchScript's own: a tuple with names is a tuple, and an index may come of a size."""

    vocabulary: Script

    def call(self, function: object, /, *arguments: object, **named: object) -> object:
        if isinstance(function, Class) and Type("NamedTuple") in function.roots:
            return self.budget.made(arguments)
        return super().call(function, *arguments, **named)

    def item(self, value: object, key: object) -> object:
        return super().item(value, self.vocabulary.settled(key))


_DEVICES = frozenset({"device", "is_cuda", "type"})


def unknown_in(texts: Iterable[str], found: str) -> list[str]:
    """The operators that the texts name and nobody vouches for, the one that was met among them."""
    names = {match[2] for text in texts for match in re.finditer(r"\b(torch|ops\.\w+)\.(\w+)\(", text)}
    return sorted({found, *(name for name in names if not _vouched(name))})


def _vouched(name: str) -> bool:
    base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return (
        name in PLAIN
        or name in SETTLED
        or name in _DEVICES
        or operators.known(base)
        or name in ("len", "dim", "is_floating_point")
    )
