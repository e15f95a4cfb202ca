"""Objects of classes that derive from `torch.nn`: real modules whose `forward` is followed, not run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any, Protocol

from torch import nn

from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.values import MISSING, Bindings, Class, Function, Object

_MAX_MODULES = 20_000  # in a net, each counted as often as it stands somewhere: DenseNet-201 has some 700
_MAX_DEPTH = 30  # of modules within modules


class Runner(Protocol):
    """Who follows what objects do."""

    scratch: MutableMapping[int, Bindings]  # what objects note during one call, by their identity
    left_out: str  # the softmax at the net's end, once it has been met

    @property
    def in_call(self) -> bool: ...

    def forward(
        self, module: Interpreted, function: Function, arguments: Sequence[object], named: Mapping[str, object]
    ) -> object: ...


class Interpreted(Object, nn.Module):
    """Parameters, buffers and children are torch's own; everything else that the text sets is kept apart."""

    kind: Class
    runs: Runner
    fields: Bindings
    sites: set[str]  # children of ours, for functions that the text calls: the text does not see them
    whole: bool  # whether it is the net itself, not a part of one
    seen: dict[object, float]  # what came in so far, and how many numbers an image took on its way

    def forward(self, *arguments: Any, **named: Any) -> Any:
        function = self.kind.find("forward")
        if not isinstance(function, Function):
            return super().forward(*arguments, **named)
        return self.runs.forward(self, function, arguments, named)

    def extra_repr(self) -> str:
        return self.kind.name

    def read(self, name: str) -> object:
        for table in (self.runs.scratch.get(id(self), {}), self.fields, self._parameters, self._buffers, self._modules):
            value = table.get(name, MISSING)
            if value is not MISSING and not (table is self._modules and name in self.sites):
                return value
        return MISSING

    def write(self, name: str, value: object) -> None:
        if self.runs.in_call:  # what one call notes is gone before the next: all calls are alike
            if isinstance(value, nn.Module | nn.Parameter):
                raise NotFollowed("its `forward` changes the net")
            self.runs.scratch.setdefault(id(self), {})[name] = value
        elif isinstance(value, nn.Module | nn.Parameter) or self._registered(name):
            self.fields.pop(name, None)
            setattr(self, name, value)
        else:
            self.fields[name] = value

    def _registered(self, name: str) -> bool:
        return name in self._parameters or name in self._buffers or name in self._modules

    def visible(self) -> dict[str, nn.Module]:
        """The children that the text gave it."""
        return {name: child for name, child in self._modules.items() if name not in self.sites and child is not None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Interpreted:
        copied = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            vars(copied)[name] = value if name in ("kind", "runs") else copy.deepcopy(value, memo)
        return copied


def blank(kind: Class, runs: Runner) -> Interpreted:
    """An object of the class before its `__init__`."""
    roots = [root for root in kind.roots if isinstance(root, type) and issubclass(root, nn.Module)]
    if len(roots) != len(kind.roots) or not roots:
        raise NotFollowed(f"the class `{kind.name}` derives from more than layers of torch")
    own = [root for root in roots if root is not nn.Module]
    if len(own) > 1:
        raise NotFollowed(f"the class `{kind.name}` derives from several layers")
    derived = _derived(own[0]) if own else Interpreted  # type: ignore[arg-type]  # a class can be hashed
    made = derived.__new__(derived)
    nn.Module.__init__(made)
    made.kind, made.runs, made.fields, made.sites, made.whole, made.seen = kind, runs, {}, set(), False, {}
    return made


@cache
def _derived(layer: type[nn.Module]) -> type[Interpreted]:
    return type(f"Interpreted{layer.__name__}", (Interpreted, layer), {})


def check_tree(net: nn.Module) -> None:
    """Modules stand within one another finitely often: torch goes through them without counting."""
    left = _MAX_MODULES
    stack: list[tuple[nn.Module, int]] = [(net, 0)]
    while stack:
        module, depth = stack.pop()
        left -= 1
        if left < 0 or depth > _MAX_DEPTH:
            raise NotFollowed("its modules stand within one another without end")
        stack += [(child, depth + 1) for child in module._modules.values() if child is not None]
        if isinstance(module, Interpreted):
            stack += [(child, depth + 1) for child in _in_fields(list(module.fields.values()))]


def _in_fields(values: list[object]) -> list[nn.Module]:
    """Modules that a net keeps in lists and tables, where torch does not see them."""
    found: list[nn.Module] = []
    known: set[int] = set()
    while values and len(known) < _MAX_MODULES:
        value = values.pop()
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, list | tuple | dict) and id(value) not in known:
            known.add(id(value))
            values += list(value.values()) if isinstance(value, dict) else list(value)
    return found
