"""What a text may use beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.values import MISSING, Class, Function, Names, Object
from bdscan.load.pickle.effects import quoted


def kind_of(value: object) -> str:
    """What a value is, for a sentence."""
    return type(value).__name__


class Vocabulary:
    """Everything that a text does with what it did not make itself is asked for here, and refused unless given.

    An own vocabulary overrides what it has more to say to. Values that are plain (numbers, text, lists, tables) and
    what the text defines never get here.
    """

    def name(self, name: str) -> object:
        """What a name means that the text does not bind; MISSING if nothing."""
        return MISSING

    def module(self, path: str, level: int, importer: Names) -> object:
        """What `import path` gives, with so many dots before it; `attribute` is asked for what is in it."""
        raise NotFollowed(f"importing {quoted(path)}")

    def star(self, module: object, name: str) -> object:
        """What `from module import *` gives by that name; MISSING if nothing."""
        return MISSING

    def attribute(self, value: object, name: str) -> object:
        raise NotFollowed(f"the attribute {quoted(name)} of a {kind_of(value)} is not something bdscan follows")

    def assign(self, value: object, name: str, new: object) -> None:
        raise NotFollowed(f"it sets {quoted(name)} of what is not its own")

    def call(self, function: object, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        raise NotFollowed(f"calling a {kind_of(function)} is not something bdscan follows")

    def item(self, value: object, key: object) -> object:
        raise NotFollowed(f"an item of a {kind_of(value)} is not something bdscan follows")

    def set_item(self, value: object, key: object, new: object) -> None:
        raise NotFollowed(f"it sets an item of a {kind_of(value)}")

    def operate(self, operator: str, *values: object) -> object:
        """`operator` by its name in Python's own module of that name: `add`, `neg`, `lt`, `contains` and so on."""
        kinds = " and ".join(kind_of(value) for value in values)
        raise NotFollowed(f"`{operator}` of {kinds} is not something bdscan follows")

    def truth(self, value: object) -> bool:
        raise NotFollowed(f"whether a {kind_of(value)} is true depends on the images")

    def iterate(self, value: object) -> Iterable[object]:
        raise NotFollowed(f"going through a {kind_of(value)} is not something bdscan follows")

    def length(self, value: object) -> int:
        raise NotFollowed(f"the length of a {kind_of(value)} is not something bdscan follows")

    def number(self, kind: type, value: object) -> object:
        """`int(value)`, `float(value)` or `bool(value)`."""
        raise NotFollowed(f"a number out of a {kind_of(value)} depends on the images")

    def is_a(self, value: object, kind: object) -> bool:
        """`isinstance`, where the kind is not one that the text or Python itself defines."""
        raise NotFollowed(f"whether a {kind_of(value)} is a {kind_of(kind)} is not something bdscan follows")

    def create(self, kind: Class) -> Object:
        """A bare object of a class that derives from something of the vocabulary's."""
        raise NotFollowed(f"the class {quoted(kind.name)} derives from what nobody vouches for")

    def inherited(self, receiver: object, kind: Class, name: str) -> object:
        """What `super()` finds in the vocabulary's classes that `kind` derives from."""
        raise NotFollowed(f"{quoted(name)} of what {quoted(kind.name)} derives from is not something bdscan follows")

    def decorate(self, decorator: object, decorated: Function | Class) -> object:
        raise NotFollowed(f"a decorator on {quoted(decorated.name)} is not something bdscan follows")

    def within(self, context: object) -> object:
        """What `with context` gives, whose block is then followed."""
        raise NotFollowed("`with` is not something bdscan follows")
