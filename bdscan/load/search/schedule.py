"""Strides, paddings and pools under which the maps have the area that the first linear layer asks for."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bdscan.facts.deadline import check_time
from bdscan.load.search.chain import Chain, Item, Residual, Stage
from bdscan.load.search.parts import Kind, Part

Side = tuple[int, int]
_KEPT = 6  # ways to one size of the maps in one habit that are followed further
_MAX_WAYS = 600  # in all
_ENOUGH = 20  # of one size: then only the sizes that are near are tried too
_NEAR = 3  # sizes
# Bounds for one image, from nets that people search for: a VGG-16 at 32 pixels takes 3e8 multiplications.
_MAX_WORK = 4e8
_MAX_NUMBERS = 1 << 22  # in the maps of one layer

# What is how unusual, in natural logarithms of how much rarer it is, by eye: only the order of trying depends on it.
_IRREGULAR = 1.5  # another padding or pool than the layer before
_STRIDED = 1.5
_POOL_COST = {(2, 2, 0): 0.0, (3, 2, 1): 1.2, (3, 2, 0): 1.2, (3, 3, 0): 2.0, (4, 4, 0): 2.0, (2, 1, 0): 3.0}


@dataclass(frozen=True, order=True)
class Pool:
    """A window over the maps."""

    kernel: int
    stride: int
    padding: int

    def side(self, side: Side) -> Side:
        return _shrunk(side, (self.kernel,) * 2, self.stride, (self.padding,) * 2)


@dataclass(frozen=True)
class Spatial:
    """What an item does to the size of its maps."""

    stride: int = 1
    padding: Side = (0, 0)
    pool: Pool | None = None


@dataclass(frozen=True)
class Head:
    """How maps become features: averaged (or their greatest taken) in `side` x `side` windows, or as they are."""

    side: int = 0  # 0: as they are
    cost: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """One way through."""

    shape: tuple[int, int, int]  # of the images
    spatials: tuple[Spatial, ...]  # one an item that convolves
    head: Head
    cost: float
    work: float  # multiplications of its convolutions for an image


@dataclass(frozen=True)
class _Way:
    cost: float
    side: Side
    work: float = 0.0
    spatials: tuple[Spatial, ...] = ()
    same: bool | None = None  # how the last kernel wider than one was padded
    pool: Pool | None = None  # the last one
    strided: bool = False


def likeliest(chain: Chain, own: tuple[int, int, int] | None, most: int, each: int) -> list[Schedule]:
    """Of all sizes of images, so many of each: the own one and those near first, others where these allow too few."""
    found: list[Schedule] = []
    for i, (shape, cost) in enumerate(shapes_to_try(chain, own)):
        if i < _NEAR or len(found) < _ENOUGH:
            found += [replace(one, cost=one.cost + cost) for one in schedules(chain, shape, each)]
    return heapq.nsmallest(most, found, key=lambda schedule: schedule.cost)


def schedules(chain: Chain, shape: tuple[int, int, int], most: int) -> list[Schedule]:
    """The likeliest, for images of this shape."""
    items = [item for item in chain.items if isinstance(item, Residual) or item.layer.kind is Kind.CONV]
    linear = next((stage.layer for stage in chain.stages if stage.layer.kind is Kind.LINEAR), None)
    if not items:
        fits = linear is not None and linear.shape[1] == math.prod(shape)
        return [Schedule(shape, (), Head(), 0.0, 0.0)] if fits else []
    if _first(items[0]).shape[1] != shape[0]:
        return []
    ways = [_Way(0.0, shape[1:])]
    followers: list[Item | None] = [*items[1:], None]
    least = linear.shape[1] // _last(items[-1]).given if linear is not None else 1
    for item, following in zip(items, followers, strict=True):
        check_time()
        more = [longer for way in ways for longer in _continued(way, item, following)]
        ways = _best([way for way in more if math.prod(way.side) >= least or _is_square(least)])
    width = _last(items[-1]).given
    found = [
        Schedule(shape, way.spatials, head, way.cost + head.cost, way.work)
        for way in ways
        for head in _heads(way.side, width, linear)
    ]
    flat = [one for one in found if not one.head.side]  # that the sides come out right is telling: half are of these
    rest = [one for one in found if one.head.side]
    few = most // 2
    return [one for some in (flat, rest) for one in heapq.nsmallest(few, some, key=lambda schedule: schedule.cost)]


def _best(ways: list[_Way]) -> list[_Way]:
    """The few likeliest to each size in each habit; and of all these the likeliest, but one to each size at least."""
    by_place: dict[object, list[_Way]] = {}
    for way in ways:
        by_place.setdefault((way.side, way.same, way.pool, way.strided), []).append(way)
    kept = [way for held in by_place.values() for way in heapq.nsmallest(_KEPT, held, key=lambda way: way.cost)]
    kept.sort(key=lambda way: way.cost)
    first: dict[Side, _Way] = {}
    for way in kept:
        first.setdefault(way.side, way)
    return kept[:_MAX_WAYS] + [way for way in first.values() if way not in kept[:_MAX_WAYS]]


def _first(item: Item) -> Part:
    return item.body[0].layer if isinstance(item, Residual) else item.layer


def _last(item: Item) -> Part:
    return item.body[-1].layer if isinstance(item, Residual) else item.layer


def _layers(item: Item) -> list[Part]:
    stages = (*item.body, *item.shortcut) if isinstance(item, Residual) else (item,)
    return [stage.layer for stage in stages]


def _width(item: Item) -> int:
    return max(layer.given for layer in _layers(item))


def _work(item: Item, side: Side) -> float:
    return math.prod(side) * sum(math.prod(layer.shape) for layer in _layers(item))


def _continued(way: _Way, item: Item, following: Item | None) -> Iterator[_Way]:
    kernel = _first(item).kernel
    weightless = item.weightless if isinstance(item, Stage) else None
    for stride, padding, cost in _strides(item, kernel):
        side = _shrunk(way.side, kernel, stride, padding)
        work = way.work + _work(item, side)
        if min(side) < 1 or work > _MAX_WORK or _width(item) * math.prod(side) > _MAX_NUMBERS:
            continue
        same = way.same if max(kernel) == 1 else padding[0] > 0
        total = way.cost + cost + _IRREGULAR * (way.same is not None and same is not way.same)
        if stride > 1:
            total += _STRIDED * (0.3 if way.strided else 1.0)
        for pool, pool_cost in _pools(item, following, weightless, way.pool):
            smaller = pool.side(side) if pool else side
            if min(smaller) >= 1:
                yield _Way(
                    total + pool_cost + _STRIDED * (stride > 1 and pool is not None),
                    smaller,
                    work,
                    (*way.spatials, Spatial(stride, padding, pool)),
                    same,
                    pool or way.pool,
                    way.strided or stride > 1,
                )


def _strides(item: Item, kernel: Side) -> Iterator[tuple[int, Side, float]]:
    """Stride, padding, and how unusual that is."""
    half = (kernel[0] // 2, kernel[1] // 2)
    if isinstance(item, Residual):
        yield 1, half, 0.0
        if item.shortcut:
            yield 2, half, -0.3
        return
    yield 1, half, 0.0
    if max(kernel) == 1:
        yield 2, half, 1.5
        return
    yield 2, half, 0.0
    yield 1, (0, 0), 0.2
    yield 2, (0, 0), 1.0
    if min(kernel) > 3:
        yield 1, (1, 1), 1.5
        yield 2, (1, 1), 0.5 if kernel[0] % 2 == 0 else 2.0
    if min(half) > 1:
        yield 4, (2, 2), 2.0
    if min(half) == 1 and kernel != (2, 2):
        yield 1, (2, 2), 3.0
    if min(kernel) > 4:
        yield 3, (0, 0), 3.0
        yield 4, (0, 0), 2.0


def _pools(
    item: Item, following: Item | None, weightless: int | None, before: Pool | None
) -> Iterator[tuple[Pool | None, float]]:
    """A pool or none behind the item: more often where the maps get wider, or where the file's numbers leave room."""
    wider = following is None or _last(following).given > _last(item).given
    free = 3.0 if weightless == 0 else {0: 3.0, 1: 1.5}.get(2 if weightless is None else weightless, 0.0)
    yield None, (1.2 if weightless is not None and weightless > 1 else 0.4 if wider and weightless is None else 0.0)
    if isinstance(item, Residual):
        free += 1.0
    for sizes, cost in _POOL_COST.items():
        pool = Pool(*sizes)
        change = _IRREGULAR * (before is not None and pool != before)
        yield pool, free + cost + change + (0.0 if wider else 0.3)


def _heads(side: Side, width: int, linear: Part | None) -> Iterator[Head]:
    area = linear.shape[1] / width if linear is not None else 1
    if math.prod(side) == area:
        yield Head()
    if area == 1:
        if math.prod(side) > 1:
            yield Head(1, 0.2 if linear is not None else 0.0)
    elif _is_square(area) and math.prod(side) > area:
        yield Head(math.isqrt(int(area)), 3.0)


def _is_square(area: float) -> bool:
    return area == int(area) and math.isqrt(int(area)) ** 2 == area


def _shrunk(side: Side, kernel: Side, stride: int, padding: Side) -> Side:
    high, wide = ((s + 2 * p - k) // stride + 1 for s, p, k in zip(side, padding, kernel, strict=True))
    return high, wide


def shapes_to_try(chain: Chain, own: tuple[int, int, int] | None) -> list[tuple[tuple[int, int, int], float]]:
    """Sizes of images, and how unusual each is."""
    first = _first(chain.items[0])
    sides = [(own[1], own[2])] if own else []
    if first.kind is Kind.LINEAR:
        return _flat_shapes(first.shape[1], sides)
    large = not own or max(own[1:]) > 128
    usual = (224, 128, 64, 32, 256, 150, 96, 100, 227, 28, 48) if large else (32, 28, 64, 48, 96, 128, 224)
    sides += [(side, side) for side in usual]
    costs = [0.0, *(4.0 + i for i in range(len(sides) - 1))] if own else [0.5 * i for i in range(len(sides))]
    found: dict[tuple[int, int, int], float] = {}
    for side, cost in zip(sides, costs, strict=True):
        found.setdefault((first.shape[1], *side), cost)
    return list(found.items())


def _flat_shapes(features: int, sides: list[Side]) -> list[tuple[tuple[int, int, int], float]]:
    """Of a net that takes the pixels in one row."""
    found = []
    for channels in (1, 3):
        area = features / channels
        if _is_square(area):
            sides = [*sides, (math.isqrt(int(area)),) * 2]
        found += [(channels, *side) for side in dict.fromkeys(sides) if math.prod(side) == area]
    return [(shape, float(i)) for i, shape in enumerate(dict.fromkeys(found))]
