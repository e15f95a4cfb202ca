"""Structures that a file's layers allow: all combinations, the likeliest first, and what is near to one of them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bdscan.facts.deadline import check_time
from bdscan.load.assembly.normalize import Norm
from bdscan.load.search.chain import Chain, Residual
from bdscan.load.search.net import ACTIVATIONS
from bdscan.load.search.parts import Kind
from bdscan.load.search.plan import Plan, Style, plan_of
from bdscan.load.search.schedule import Schedule, likeliest

Shape = tuple[int, int, int]
Norms = Callable[[Shape], Sequence[Norm]]  # that images of a shape may have been given, the likeliest first

_SCHEDULES = 60  # of one chain and one size
_MAX_SCHEDULES = 100  # of one chain
_POPULATION = 6000  # combinations; the work ends the search long before
_MAX_MOVED = 3  # items whose strides or pools another schedule may change to be near

# How unusual it is, as in `schedule.py`.
_ACTS = {"relu": 0.0, "tanh": 2.5, "leaky relu 0.01": 2.5, "sigmoid": 2.5, "elu": 3.0, "silu": 3.5, "gelu": 3.5}
_OTHER_ACT = 4.0
_ANOTHER_ACT = 2.0  # between linear layers than between convolutions
_ORDERS = {"nap": 0.0, "anp": 1.5, "apn": 1.5, "npa": 2.0, "pna": 3.0, "pan": 3.0}
_ANOTHER_NORM = 0.5  # for each that is likelier
_TRIED_ACTS = ("relu", "tanh", "leaky relu 0.01", "elu", "sigmoid", "silu")


@dataclass(frozen=True, eq=False)
class Structure:
    """One reading of the file: how its layers follow one another, in what sizes and style, behind what."""

    chain: Chain
    schedule: Schedule
    style: Style
    norm: Norm
    rank: int  # of the norm among those that may be

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self.chain, self.schedule, self.style)

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it another."""
        return self.plan, self.norm, self.schedule.shape

    @property
    def way(self) -> tuple[object, ...]:
        """All of it but its style."""
        return id(self.chain), self.schedule

    @property
    def way_cost(self) -> float:
        """How unusual that is."""
        return self.chain.cost + self.schedule.cost

    @property
    def form_cost(self) -> float:
        """How unusual it is, whatever the images were given."""
        return self.way_cost + _cost(self.style)

    @property
    def cost(self) -> float:
        return self.form_cost + _ANOTHER_NORM * self.rank


def _cost(style: Style) -> float:
    """How unusual a style is."""
    dense = _ACTS.get(style.dense_act, 0.0 if style.dense_act in ("", "-") else _OTHER_ACT)
    return (
        _ACTS.get(style.act, _OTHER_ACT)
        + dense
        + _ORDERS[style.order]
        + _ANOTHER_ACT * bool(style.dense_act)
        + 1.5 * (style.dense_order != "na")
        + 1.5 * (style.pool != "max")
        + 1.5 * (style.head != "avg")
        + 0.7 * (not style.late_act)
        + 2.0 * len(style.exceptions)
    )


class Space:
    """All structures of a file."""

    def __init__(self, chains: Sequence[Chain], own: Shape | None, norms: Norms) -> None:
        self.norms = norms
        self.schedules: Mapping[Chain, list[Schedule]] = {
            chain: likeliest(chain, own, _MAX_SCHEDULES, _SCHEDULES) for chain in chains
        }

    @property
    def possible(self) -> Structure | None:
        """One of them, if there is any."""
        for chain, found in self.schedules.items():
            for schedule in found[:1]:
                return Structure(chain, schedule, Style(), self.norms(schedule.shape)[0], 0)
        return None

    def likeliest(self) -> list[Structure]:
        """Combinations of what is usual, each once."""
        rated: list[tuple[float, Structure]] = []
        for chain, found in self.schedules.items():
            styles = _styles(chain)
            for schedule in found:
                check_time()
                ranked = list(enumerate(self.norms(schedule.shape)))
                for style, (rank, norm) in itertools.product(styles, ranked):
                    structure = Structure(chain, schedule, style, norm, rank)
                    rated.append((structure.cost, structure))
        unique: dict[tuple[object, ...], Structure] = {}
        for _, structure in heapq.nsmallest(2 * _POPULATION, rated, key=lambda one: one[0]):
            unique.setdefault(structure.key, structure)
        return list(unique.values())[:_POPULATION]

    def no_less_usual(self, one: Structure) -> Iterator[Structure]:
        """In its style, behind its norm, all strides and pools that are no less usual than its own."""
        for chain, found in self.schedules.items():
            ways = (replace(one, chain=chain, schedule=schedule) for schedule in found)
            yield from (way for way in ways if way.way_cost <= one.way_cost)

    def near(self, one: Structure) -> Iterator[Structure]:
        """All that differ from it in one thing."""
        for rank, norm in enumerate(self.norms(one.schedule.shape)):
            yield replace(one, norm=norm, rank=rank)
        for style in _styles_near(one):
            yield replace(one, style=style)
        for schedule in self.schedules[one.chain]:
            if schedule.shape != one.schedule.shape or _moved(schedule, one.schedule) <= _MAX_MOVED:
                yield replace(one, schedule=schedule)
        for chain, found in self.schedules.items():
            if chain is not one.chain:
                alike = [s for s in found if s.spatials == one.schedule.spatials and s.shape == one.schedule.shape]
                for schedule in alike or found[:3]:
                    yield replace(one, chain=chain, schedule=schedule)


def _moved(one: Schedule, other: Schedule) -> int:
    return sum(a != b for a, b in zip(one.spatials, other.spatials, strict=True))


def _styles(chain: Chain) -> list[Style]:
    """The usual ones that make a difference to such a chain."""
    layers = list(chain.stages)
    convs = [stage for stage in layers if stage.layer.kind is Kind.CONV]
    normed = [stage for stage in layers if stage.norm is not None]
    acts = ("relu",) if chain.shared_prelu or all(stage.prelu for stage in layers[:-1]) else _TRIED_ACTS
    orders = ("nap", "anp", "apn", "npa") if any(stage.norm for stage in convs) else ("nap", "npa")
    kinds = ("max", "avg") if convs else ("max",)
    late = (True, False) if any(isinstance(item, Residual) for item in chain.items) else (True,)
    groups = (1, 8, 32, 0) if any(not stage.norm.running for stage in normed if stage.norm) else (1,)
    return [
        Style(act=act, order=order, dense_order=dense, pool=kind, head=head, late_act=late_act, groups=count)
        for act, order, dense, kind, head, late_act, count in itertools.product(
            acts,
            orders if convs else ("nap",),
            ("na",) if convs or not normed else ("na", "an"),
            kinds,
            kinds,
            late,
            groups,
        )
    ]


def _styles_near(one: Structure) -> Iterator[Style]:
    style = one.style
    for act in (*ACTIVATIONS, "-"):
        yield replace(style, act=act, dense_act="" if style.dense_act in ("", act) else style.dense_act)
        yield replace(style, act=act, dense_act="")
        yield replace(style, dense_act=act if act != style.act else "")
    yield from (replace(style, order=order) for order in _ORDERS)
    yield replace(style, dense_order={"na": "an", "an": "na"}[style.dense_order])
    yield replace(style, pool={"max": "avg", "avg": "max"}[style.pool])
    yield replace(style, head={"max": "avg", "avg": "max"}[style.head])
    yield from (replace(style, groups=groups) for groups in (0, 1, 2, 4, 8, 16, 32))
    yield replace(style, late_act=not style.late_act)
    for stage in one.chain.stages:
        for what in ("-", "avg", "max"):
            exceptions = set(style.exceptions) ^ {(stage.layer.name, what)}
            yield replace(style, exceptions=tuple(sorted(exceptions)))
