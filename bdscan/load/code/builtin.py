"""Python's own functions and the methods of plain values, as far as nets need them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from bdscan.load.code.budget import LONGEST, Budget
from bdscan.load.code.plain import NUMBERS, braces, formatted, is_plain, same, within_bounds
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.values import Class, Native, Object
from bdscan.load.code.vocabulary import Vocabulary


class Machine(Protocol):
    """What the functions need of whoever follows the text."""

    budget: Budget
    vocabulary: Vocabulary

    def call(self, function: object, /, *arguments: object) -> object: ...

    def iterate(self, value: object) -> Iterable[object]: ...

    def truth(self, value: object) -> bool: ...

    def operate(self, name: str, *values: object) -> object: ...

    def attribute(self, value: object, name: str) -> object: ...

    def set_attribute(self, value: object, name: str, new: object) -> None: ...


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    **{"int": int, "float": float, "bool": bool, "str": str, "list": list, "tuple": tuple, "dict": dict, "set": set},
    **{"slice": slice, "object": object},
}
TYPES = {name: Native(name, lambda *_: None) for name in _TYPES}  # by identity: what `int` means as a value


def builtins(machine: Machine) -> Mapping[str, object]:
    """Every function by its name."""
    own = _Functions(machine)
    names: tuple[str, ...] = (
        "len",
        "range",
        "zip",
        "enumerate",
        "reversed",
        "sorted",
        "sum",
        "min",
        "max",
        "abs",
        "round",
        "map",
    )
    names += (
        "filter",
        "any",
        "all",
        "isinstance",
        "print",
        "divmod",
        "pow",
        "callable",
        "iter",
        "getattr",
        "hasattr",
        "setattr",
    )
    functions = {name: Native(name, getattr(own, f"{name}_")) for name in names}
    makers = {name: Native(name, getattr(own, f"{name}_")) for name in TYPES if name != "object"}
    own.types |= {id(makers[name]): _TYPES[name] for name in makers}
    return functions | makers | {"object": TYPES["object"]}


class _Functions:
    """Each under its own name and a `_`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.types: dict[int, type | tuple[type, ...]] = {}

    def _list(self, value: object) -> list[object]:
        self.machine.budget.step()
        return list(itertools.islice(self.machine.iterate(value), LONGEST))

    def _made(self, value: list[object]) -> list[object]:
        return self.machine.budget.made(value)

    def len_(self, value: object) -> int:
        return len(value) if is_plain(value) else self.machine.vocabulary.length(value)  # type: ignore[arg-type]

    def range_(self, *bounds: object) -> range:
        numbers = [bound for bound in bounds if isinstance(bound, int)]
        if not 1 <= len(numbers) == len(bounds) <= 3:
            raise TypeError("a range goes from number to number")
        return range(*numbers)

    def zip_(self, *several: object) -> list[object]:
        return self._made(list(zip(*map(self._list, several), strict=False)))

    def enumerate_(self, value: object, start: int = 0) -> list[object]:
        return self._made(list(enumerate(self._list(value), start)))

    def reversed_(self, value: object) -> list[object]:
        return self._made(self._list(value)[::-1])

    def iter_(self, value: object) -> object:
        return value if isinstance(value, list | tuple) else self._made(self._list(value))

    def sorted_(self, value: object, key: object = None, reverse: object = False) -> list[object]:
        entries = self._list(value)
        keys = [entry if key is None else self.machine.call(key, entry) for entry in entries]
        if not all(type(one) in (*NUMBERS, str) for one in keys):
            raise NotFollowed("it sorts other things than numbers and texts")
        order = sorted(range(len(entries)), key=lambda i: keys[i], reverse=self.machine.truth(reverse))  # type: ignore[arg-type, return-value]
        return self._made([entries[i] for i in order])

    def sum_(self, value: object, start: object = 0) -> object:
        for entry in self._list(value):
            start = self.machine.operate("add", start, entry)
        return start

    def min_(self, *values: object) -> object:
        return self._extreme("lt", values)

    def max_(self, *values: object) -> object:
        return self._extreme("gt", values)

    def _extreme(self, better: str, values: tuple[object, ...]) -> object:
        entries = self._list(values[0]) if len(values) == 1 else list(values)
        best = entries[0]
        for entry in entries[1:]:
            best = entry if self.machine.truth(self.machine.operate(better, entry, best)) else best
        return best

    def abs_(self, value: object) -> object:
        return abs(value) if isinstance(value, int | float) else self.machine.operate("abs", value)

    def round_(self, value: object, digits: object = None) -> object:
        if not isinstance(value, int | float) or not isinstance(digits, int | None):
            raise TypeError("only numbers are rounded")
        return round(value, digits)

    def divmod_(self, one: object, other: object) -> tuple[object, object]:
        return self.machine.operate("floordiv", one, other), self.machine.operate("mod", one, other)

    def pow_(self, one: object, other: object) -> object:
        return self.machine.operate("pow", one, other)

    def map_(self, function: object, *several: object) -> list[object]:
        rows = zip(*map(self._list, several), strict=False)
        return self._made([self.machine.call(function, *row) for row in rows])

    def filter_(self, function: object, value: object) -> list[object]:
        return self._made(
            [entry for entry in self._list(value) if self.machine.truth(self.machine.call(function, entry))]
        )

    def any_(self, value: object) -> bool:
        return any(self.machine.truth(entry) for entry in self._list(value))

    def all_(self, value: object) -> bool:
        return all(self.machine.truth(entry) for entry in self._list(value))

    def isinstance_(self, value: object, kind: object) -> bool:
        if isinstance(kind, tuple):
            return any(self.isinstance_(value, one) for one in kind)
        if id(kind) in self.types:
            return isinstance(value, self.types[id(kind)]) and (is_plain(value))
        if isinstance(kind, Class):
            return isinstance(value, Object) and kind in value.kind.order
        return self.machine.vocabulary.is_a(value, kind)

    def getattr_(self, value: object, name: object, *default: object) -> object:
        """By the same rules as an attribute that stands in the text."""
        try:
            return self.machine.attribute(value, _identifier(name))
        except AttributeError:
            if not default:
                raise
            return default[0]

    def hasattr_(self, value: object, name: object) -> bool:
        return self.getattr_(value, name, self) is not self

    def setattr_(self, value: object, name: object, new: object) -> None:
        self.machine.set_attribute(value, _identifier(name), new)

    def callable_(self, value: object) -> bool:
        return not is_plain(value)

    def print_(self, /, *_: object, **__: object) -> None:
        return None

    def int_(self, value: object = 0) -> object:
        return self._number(int, value)

    def float_(self, value: object = 0.0) -> object:
        return self._number(float, value)

    def bool_(self, value: object = False) -> bool:
        return self.machine.truth(value)

    def _number(self, kind: type[int | float], value: object) -> object:
        if isinstance(value, str):
            if len(value) > 30:
                raise ValueError("a number of more digits than any net's")
            return within_bounds(kind(value))
        return (
            within_bounds(kind(value))
            if isinstance(value, int | float)
            else self.machine.vocabulary.number(kind, value)
        )

    def str_(self, value: object = "") -> str:
        return self.machine.budget.made(formatted(value))

    def list_(self, value: object = ()) -> list[object]:
        return self._made(self._list(value))

    def tuple_(self, value: object = ()) -> tuple[object, ...]:
        return self.machine.budget.made(tuple(self._list(value)))

    def set_(self, value: object = ()) -> set[object]:
        return self.machine.budget.made({key_of(entry) for entry in self._list(value)})

    def dict_(self, value: object = (), /, **named: object) -> dict[object, object]:
        pairs = value.items() if isinstance(value, dict) else (self._list(pair) for pair in self._list(value))
        return self.machine.budget.made({key_of(key): entry for key, entry in pairs} | named)

    def slice_(self, *bounds: object) -> slice:
        return slice(*bounds)


def _identifier(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise NotFollowed("the name of an attribute is not one that could stand in the text")
    return name


def key_of(value: object) -> object:
    """What may be a key: numbers, texts, tuples of these, and what the text defines."""
    if isinstance(value, tuple):
        value = tuple(value)
        if all(type(part) in (*NUMBERS, str, type(None)) for part in value):
            return value
    if is_plain(value) and not isinstance(value, bool | int | float | str | None):
        raise TypeError("a key is a number or a text")
    return value


CHANGING = frozenset(
    {"append", "extend", "insert", "pop", "remove", "reverse", "clear", "update", "setdefault", "popitem", "add"}
)
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset({"startswith", "endswith", "lower", "upper", "strip", "lstrip", "rstrip", "split", "rsplit", "join"})
    | {"replace", "isdigit", "isalpha", "find", "count", "capitalize", "title", "partition", "rpartition"},
    list: frozenset({"append", "extend", "insert", "pop", "index", "count", "reverse", "remove", "clear", "copy"}),
    tuple: frozenset({"index", "count"}),
    dict: frozenset(["keys", "values", "items", "get", "pop", "update", "setdefault", "copy", "clear"]),
    set: frozenset({"add", "remove", "update"}),
}


def method(machine: Machine, value: object, name: str) -> object:
    """A method of a plain value."""
    if isinstance(value, str) and name == "format":
        return Native(name, lambda *arguments, **named: machine.budget.made(braces(value, arguments, named)))
    if name not in _METHODS.get(type(value), ()):
        raise NotFollowed(f"`{name}` of a {type(value).__name__} is not something bdscan follows")
    return Native(name, _bound(machine, value, name, getattr(value, name)))


def _bound(machine: Machine, value: object, name: str, native: Callable[..., object]) -> Callable[..., object]:
    def run(*arguments: object, **named: object) -> object:
        if name in CHANGING:
            machine.budget.may_change(value)
        if name in ("extend", "join") or (name == "update" and not (arguments and isinstance(arguments[0], dict))):
            arguments = tuple(machine.budget.made(list(machine.iterate(one))) for one in arguments)
        if name == "replace" and isinstance(value, str):
            machine.budget.room((len(value) + 1) * (len(str(arguments[1])) + 1))
        if name in ("index", "count", "remove") and not isinstance(value, str):
            return _search(machine, value, name, *arguments)
        result = native(*arguments, **named)
        machine.budget.room(_size(value) if name in CHANGING and name != "append" else 1)
        if isinstance(value, list | dict | set) and len(value) > LONGEST:
            raise NotFollowed("it makes far longer lists than any net")
        if name in ("keys", "values", "items"):
            result = list(result)  # type: ignore[call-overload]
        return machine.budget.made(result) if isinstance(result, str | list | dict | tuple) and _fresh(name) else result

    return run


def _fresh(name: str) -> bool:
    return name not in ("pop", "get", "setdefault")


def _size(value: object) -> int:
    return len(value) // 16 + 1 if isinstance(value, list | dict | set) else 1


def _search(machine: Machine, value: object, name: str, *arguments: object) -> object:
    """Compared one by one, and only plain values with plain values."""
    (wanted,) = arguments
    entries = list(machine.iterate(value))
    places = [i for i, entry in enumerate(entries) if same(machine.budget, entry, wanted)]
    if name == "count":
        return len(places)
    if not places:
        raise ValueError("it is not in the list")
    if name == "remove":
        del value[places[0]]  # type: ignore[attr-defined]
        return None
    return places[0]
