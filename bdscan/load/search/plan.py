"""A structure written out: the operations of a net one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bdscan.load.search.chain import Chain, Residual, Stage
from bdscan.load.search.parts import Kind, Part
from bdscan.load.search.schedule import Pool, Schedule, Spatial


@dataclass(frozen=True, order=True)
class Op:
    """One operation; `arguments` are what its tensors do not tell."""

    kind: str
    part: str = ""  # the layer in the file that it runs
    arguments: tuple[int | str, ...] = ()
    body: tuple[Op, ...] = ()  # of a sum, and what it is added to
    shortcut: tuple[Op, ...] = ()


Plan = tuple[Op, ...]


@dataclass(frozen=True)
class Style:
    """What a chain and a schedule leave open, the same at every place but for the exceptions."""

    act: str = "relu"
    dense_act: str = ""  # between linear layers, where another
    order: str = "nap"  # norm, activation, pool
    dense_order: str = "na"
    pool: str = "max"
    head: str = "avg"  # how the last maps are pooled to the area that the linear layer takes
    groups: int = 1  # of norms that keep no statistics; 0: one a channel
    late_act: bool = True  # whether a sum comes before the last activation of its block
    exceptions: tuple[tuple[str, str], ...] = field(default=())  # by layer: `-` no activation, `avg` or `max` its pool


@dataclass
class _Writer:
    chain: Chain
    schedule: Schedule
    style: Style
    width: int  # channels at this point

    def plan(self) -> Iterator[Op]:
        chain, spatials = self.chain, iter(self.schedule.spatials)
        last = [stage.layer for stage in chain.stages][-1]
        flat = False
        if chain.first_norm is not None:
            yield self._norm(chain.first_norm, "maps")
        for i, item in enumerate(chain.items):
            if isinstance(item, Residual):
                yield from self._sum(item, next(spatials))
            elif item.layer.kind is Kind.CONV:
                yield from self._stage(item, next(spatials))
            else:
                if not flat:
                    yield from self._flattened(i > 0)
                    flat = True
                yield Op("linear", item.layer.name)
                if item.layer is not last:
                    yield from self._behind(item, self.style.dense_order, None)
        if not flat:
            yield from self._flattened(True)

    def _flattened(self, maps: bool) -> Iterator[Op]:
        if maps and self.schedule.head.side:
            yield Op("adaptive", arguments=(self.style.head, self.schedule.head.side))
        yield Op("flatten")
        if self.chain.flat_norm is not None:
            yield self._norm(self.chain.flat_norm, "row")

    def _stage(self, stage: Stage, spatial: Spatial) -> Iterator[Op]:
        yield self._conv(stage.layer, spatial)
        yield from self._behind(stage, self.style.order, spatial.pool)

    def _behind(self, stage: Stage, order: str, pool: Pool | None) -> Iterator[Op]:
        for what in order:
            if what == "n" and stage.norm is not None:
                yield self._norm(stage.norm, "maps" if stage.layer.kind is Kind.CONV else "row")
            elif what == "a":
                yield from self._act(stage)
            elif what == "p" and pool is not None:
                kind = self._exception(stage, ("avg", "max")) or self.style.pool
                yield Op("pool", arguments=(kind, pool.kernel, pool.stride, pool.padding))

    def _act(self, stage: Stage) -> Iterator[Op]:
        prelu = stage.prelu or self.chain.shared_prelu
        if self._exception(stage, ("-",)):
            return
        if prelu is not None:
            yield Op("prelu", prelu.name)
            return
        act = self.style.dense_act if stage.layer.kind is Kind.LINEAR and self.style.dense_act else self.style.act
        if act != "-":
            yield Op("act", arguments=(act,))

    def _sum(self, item: Residual, spatial: Spatial) -> Iterator[Op]:
        body: list[Op] = []
        before = self.width
        late = self.style.late_act
        for i, stage in enumerate(item.body):
            own = spatial.stride if i == 0 else 1
            half = (stage.layer.kernel[0] // 2, stage.layer.kernel[1] // 2)
            body.append(self._conv(stage.layer, Spatial(own, half)))
            order = self.style.order.replace("p", "")
            if late and i == len(item.body) - 1:
                order = order.replace("a", "")
            body += self._behind(stage, order, None)
        beside: list[Op] = []
        after, self.width = self.width, before
        for stage in item.shortcut:
            beside.append(self._conv(stage.layer, Spatial(spatial.stride)))
            if stage.norm is not None:
                beside.append(self._norm(stage.norm, "maps"))
        self.width = after
        yield Op("sum", body=tuple(body), shortcut=tuple(beside))
        if late:
            yield from self._act(item.body[-1])
        if spatial.pool is not None:
            pool = spatial.pool
            yield Op("pool", arguments=(self.style.pool, pool.kernel, pool.stride, pool.padding))

    def _norm(self, part: Part, of: str) -> Op:
        if not part.running and len(part.shape) == 1 and of == "maps":
            return Op("norm", part.name, (of, math.gcd(self.style.groups or part.given, part.given)))
        return Op("norm", part.name, (of,))

    def _conv(self, layer: Part, spatial: Spatial) -> Op:
        groups = self.width // layer.shape[1]
        self.width = layer.given
        return Op("conv", layer.name, (spatial.stride, *spatial.padding, groups))

    def _exception(self, stage: Stage, among: tuple[str, ...]) -> str:
        return next((what for name, what in self.style.exceptions if name == stage.layer.name and what in among), "")


def plan_of(chain: Chain, schedule: Schedule, style: Style) -> Plan:
    """The net of this chain, in this style."""
    return tuple(_Writer(chain, schedule, style, schedule.shape[0]).plan())


def described(plan: Plan, parts: Mapping[str, Part]) -> str:
    """In one line, as people write it."""
    return ", ".join(_named(op, parts) for op in plan if op.kind != "flatten")


def _named(op: Op, parts: Mapping[str, Part]) -> str:
    if op.kind == "sum":
        beside = described(op.shortcut, parts) or "itself"
        return f"({described(op.body, parts)}) + {beside}"
    if op.kind == "conv":
        part, (stride, padding, *_) = parts[op.part], op.arguments
        size = "x".join(map(str, part.kernel))
        more = (f" stride {stride}" if stride != 1 else "") + (f" padding {padding}" if padding else "")
        return f"conv{size}-{part.given}{more}"
    if op.kind == "pool":
        kind, kernel, stride, padding = op.arguments
        more = (f" stride {stride}" if stride != kernel else "") + (f" padding {padding}" if padding else "")
        return f"{kind}pool{kernel}{more}"
    if op.kind == "adaptive":
        return f"{op.arguments[0]}pool to {op.arguments[1]}x{op.arguments[1]}"
    if op.kind == "linear":
        return f"linear-{parts[op.part].given}"
    return str(op.arguments[0]) if op.kind == "act" else op.kind
