"""What a text makes: functions, classes and objects, all of them data."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bdscan.load.code.refusal import NotFollowed

Bindings = MutableMapping[str, object]  # names and what they stand for
MISSING = object()  # where None is a value


class Names(Protocol):
    """Where names are looked up that a function does not bind itself."""

    file: str  # for messages

    def find(self, name: str) -> object: ...


class Scope:
    """The names that a function, a class or a comprehension binds, and what surrounds it."""

    def __init__(self, around: Names, names: Bindings | None = None, owner: Class | None = None) -> None:
        self.around, self.file, self.names, self.owner = around, around.file, {} if names is None else names, owner

    def find(self, name: str) -> object:
        value = self.names.get(name, MISSING)
        return self.around.find(name) if value is MISSING else value

    @property
    def method_of(self) -> Class | None:
        """The class in whose method the names are looked up."""
        around = self.around
        return self.owner or (around.method_of if isinstance(around, Scope) else None)

    @property
    def receiver(self) -> object:
        """What the method was called on: its first argument."""
        if self.owner is not None:
            return next(iter(self.names.values()), MISSING)
        return self.around.receiver if isinstance(self.around, Scope) else MISSING


@dataclass(eq=False)
class Function:
    """A function or a lambda with the names around it."""

    node: ast.FunctionDef | ast.Lambda
    around: Names
    defaults: Sequence[object]
    keyword_defaults: Mapping[str, object]
    owner: Class | None = None  # in whose body it stands

    @property
    def name(self) -> str:
        return self.node.name if isinstance(self.node, ast.FunctionDef) else "lambda"

    def __deepcopy__(self, memo: dict[int, object]) -> Function:
        """A copy of what it closes over too, where that is an object's: a copied net must not run the original's."""
        if not isinstance(self.around, Scope):
            return self
        copied = memo[id(self)] = replace(self)
        copied.around = copy.deepcopy(self.around, memo)
        return copied


@dataclass(eq=False)
class Class:
    """A class: its own members, and the bases, which are classes of the text or the vocabulary's."""

    name: str
    bases: Sequence[object]
    members: Bindings = field(default_factory=dict)
    fields: tuple[str, ...] = ()  # of a dataclass

    def __deepcopy__(self, memo: dict[int, object]) -> Class:
        return self

    @property
    def order(self) -> list[Class]:
        """Where members are looked up: what two bases share comes after both."""
        found = [self, *(above for base in self.bases if isinstance(base, Class) for above in base.order)]
        return list(reversed(dict.fromkeys(reversed(found))))

    @property
    def roots(self) -> list[object]:
        """The vocabulary's classes that it derives from."""
        return list(dict.fromkeys(base for one in self.order for base in one.bases if not isinstance(base, Class)))

    @property
    def filled(self) -> tuple[str, ...]:
        """The fields of the nearest dataclass among it and its bases."""
        return next((one.fields for one in self.order if one.fields), ())

    def find(self, name: str, after: Class | None = None) -> object:
        """The member of that name, looked for behind `after` where that is given."""
        order = self.order
        order = order[order.index(after) + 1 :] if after in order else order
        return next((one.members[name] for one in order if name in one.members), MISSING)


class Object:
    """What is made by calling a class. A vocabulary may have its own, with more behind it."""

    kind: Class

    def read(self, name: str) -> object:
        """The object's own attribute, MISSING if it has none."""
        raise NotImplementedError

    def write(self, name: str, value: object) -> None:
        raise NotImplementedError


class Instance(Object):
    """Of a class that derives from nothing but classes of the text."""

    def __init__(self, kind: Class) -> None:
        self.kind = kind
        self.attributes: Bindings = {}

    def read(self, name: str) -> object:
        return self.attributes.get(name, MISSING)

    def write(self, name: str, value: object) -> None:
        self.attributes[name] = value


@dataclass(frozen=True, eq=False)
class Method:
    """A function together with what it was looked up on."""

    function: Function
    receiver: object


@dataclass(frozen=True, eq=False)
class Super:
    """The classes behind one class, on behalf of an object (or a class)."""

    after: Class
    receiver: object


@dataclass(frozen=True, eq=False)
class Wrapped:
    """What a decorator makes of a function: `property`, `staticmethod` or `classmethod`."""

    kind: str
    function: Function


@dataclass(frozen=True, eq=False)
class Native:
    """A function of ours that stands for one the text may call."""

    name: str
    run: Callable[..., object]

    def __deepcopy__(self, memo: dict[int, object]) -> Native:
        return self


@dataclass(frozen=True)
class Unknown:
    """What nobody vouches for: it may be named and handed on, and is refused when it is used."""

    what: str

    def refuse(self) -> NotFollowed:
        return NotFollowed(f"{self.what} is not something bdscan follows")
