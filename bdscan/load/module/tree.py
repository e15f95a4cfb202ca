"""The tree of a pickled module: every layer by its record, every container with its parts in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from bdscan.facts.deadline import check_time
from bdscan.load.module.layers import NotVouched, attributes, children, layer, layer_kind, own_tensors
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, named

_MAX_DEPTH = 16  # containers in containers
_MAX_MODULES = 5000  # the deepest nets have some hundreds
_WRAPPERS = (
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
)
_LISTS = ("ModuleList", "ModuleDict")  # which run nothing themselves


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer, or layers that run one after another, under the name that it has in the net."""

    name: str
    record: CallRecord
    layers: tuple[CallRecord, ...]  # one; in a Sequential, all of it

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(map(layer_kind, self.layers))

    def build(self) -> nn.Module:
        return _module(self.record)


@dataclass(frozen=True, eq=False)
class Parts:
    """All of a module, in the order of registration."""

    units: tuple[Unit, ...]
    certain: bool  # whether they run in that order, and nothing else does
    nested: bool  # whether some are parts of parts that their owner wrote, which may join what they split


def parts_of(module: CallRecord) -> Parts:
    """The layers and Sequentials that it is made of; raises `NotVouched` where something acts besides them."""
    found = tuple(_units(module, "", iter(range(_MAX_MODULES)), 0))
    sequential = layer_kind(module) == "Sequential" or named_class(module) in _WRAPPERS
    owned = [part for part in _all_parts(module) if not layer_kind(part) and named_class(part) not in _WRAPPERS]
    return Parts(found, sequential and _certain(module), bool(owned))


def _all_parts(module: CallRecord) -> Iterator[CallRecord]:
    for part in children(module).values():
        yield part
        yield from _all_parts(part)


def named_class(module: CallRecord) -> str:
    """In full, with its module."""
    return str(named(module.maker) or "")


def _certain(module: CallRecord) -> bool:
    """Whether it is made of layers and Sequentials alone; behind a wrapper, whether that is so."""
    parts = children(module)
    if named_class(module) in _WRAPPERS:
        return len(parts) == 1 and all(layer_kind(part) == "Sequential" and _certain(part) for part in parts.values())
    return all(layer_kind(part) and (layer_kind(part) != "Sequential" or _certain(part)) for part in parts.values())


def _units(module: CallRecord, prefix: str, visits: Iterator[int], depth: int) -> Iterator[Unit]:
    """Containers that are no Sequentials are looked into: their parts are units of their own."""
    if depth > _MAX_DEPTH:
        raise NotVouched("its modules are nested too deep")
    attributes(module)
    if own_tensors(module):
        raise NotVouched(f"{quoted(named(module.maker))} holds tensors outside its layers")
    for name, part in children(module).items():
        if next(visits, None) is None:
            raise NotVouched("it has more parts than any net")
        check_time()
        kind, full = layer_kind(part), f"{prefix}{name}"
        if kind == "Sequential" and _only_layers(part, depth):
            yield Unit(full, part, tuple(_layers(part, visits, depth + 1)))
        elif kind in ("", "Sequential", *_LISTS) or named_class(part) in _WRAPPERS:
            yield from _units(part, f"{full}.", visits, depth + 1)
        else:
            yield Unit(full, part, (part,))


def _only_layers(module: CallRecord, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise NotVouched("its modules are nested too deep")
    kinds = [(layer_kind(part), part) for part in children(module).values()]
    return all(
        kind not in ("", *_LISTS) and (kind != "Sequential" or _only_layers(part, depth + 1)) for kind, part in kinds
    )


def _layers(module: CallRecord, visits: Iterator[int], depth: int) -> Iterator[CallRecord]:
    """All layers of a Sequential, those of the Sequentials in it in their place."""
    if depth > _MAX_DEPTH:
        raise NotVouched("its modules are nested too deep")
    attributes(module)
    for part in children(module).values():
        if next(visits, None) is None:
            raise NotVouched("it has more parts than any net")
        if layer_kind(part) == "Sequential":
            yield from _layers(part, visits, depth + 1)
        else:
            yield part


def _module(record: CallRecord) -> nn.Module:
    if layer_kind(record) != "Sequential":
        return layer(record)
    made = nn.Sequential()
    for name, part in children(record).items():
        made.add_module(name, _module(part))
    return made


class InOrder(nn.Module):
    """Layers under the names that they have in the file, run in an order of ours."""

    def __init__(self) -> None:
        super().__init__()
        self._order: list[str] = []

    def _put(self, name: str, module: nn.Module) -> None:
        """As the next that runs."""
        *path, leaf = name.split(".")
        holder: nn.Module = self
        for step in path:
            if step not in holder._modules:
                holder.add_module(step, nn.Module())
            holder = holder._modules[step]  # type: ignore[assignment]
        holder.add_module(leaf, module)
        self._order.append(name)

    def forward(self, x: Any) -> Any:
        for name in self._order:
            x = self.get_submodule(name)(x)
        return x
