"""A program followed once, on images without memory: every operation that depends on the image is written down, flat.

What hangs on sizes alone is worked out in earnest, for two numbers of images side by side: so it shows what of it hangs
on their number. No operation on the image runs before the whole net is known.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem
from bdscan.load.arch.bounded import AS_LARGE, Bounded, OutOfProportion, largest_tensor
from bdscan.load.graph import operators
from bdscan.load.graph.batch import place
from bdscan.load.graph.net import Entry
from bdscan.load.graph.operators import as_float32
from bdscan.load.pickle.effects import quoted

MAX_STEPS = 1 << 14  # the largest classifiers have some 10,000
_MAX_ALIVE = 4  # times the largest tensor: what may be kept for later steps at once
_CONSTANTS = 1 << 24  # numbers that may be made out of constants, however few the file has
_MAX_GROWTH = 8  # times the numbers in the file: a weight is turned and joined a few times on its way
_META, _CPU = torch.device("meta"), torch.device("cpu")
# What has nothing in it but what the graph itself settles.
_SETTLED: Mapping[str, Callable[[Tensor], object]] = {
    "dim": Tensor.dim,
    "is_floating_point": Tensor.is_floating_point,
    "is_complex": Tensor.is_complex,
}


class Undecidable(Problem):
    """The program goes on in a way that no fixed graph can follow."""


class Unknown(Exception):
    """An operator that is not vouched for."""

    def __init__(self, op: str) -> None:
        super().__init__(op)
        self.op = op


class Value:
    """What is worked out anew for every image: a tensor, or a number that comes of sizes."""

    __slots__ = ("__weakref__", "image", "name", "now", "other", "stale", "varies")

    def __init__(self, name: str, now: object, other: object, *, image: bool, varies: bool) -> None:
        self.name = name
        self.now = now  # for the batch that is followed
        self.other = other  # for another number of images; without memory where it hangs on the pixels
        self.image = image  # whether it hangs on the pixels, and not on sizes alone
        self.varies = varies  # with the number of images
        self.stale = False  # whether it was changed through another view of it


@dataclass(frozen=True)
class Ref:
    """A value of an earlier step."""

    name: str
    rank: int  # -1: a number


@dataclass(frozen=True, eq=False)
class Operation:
    """One operator with its arguments: `Ref`, tensors of the file, or plain values."""

    op: str
    arguments: tuple[object, ...]
    named: Mapping[str, object]
    outputs: tuple[str, ...]
    image: bool  # whether it hangs on the pixels

    @property
    def inputs(self) -> tuple[str, ...]:
        leaves = tree_leaves((self.arguments, dict(self.named)))
        return tuple(leaf.name for leaf in leaves if isinstance(leaf, Ref))


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of the file."""

    tensor: Tensor  # with fractions of 32 bits
    original: Tensor  # as it lies in the file
    name: str
    trainable: bool


@dataclass(eq=False)
class Recorder:
    """Writes down what is called; all that hangs on no image is worked out once and for all."""

    shape: tuple[int, int, int]
    batch: int
    entry: Entry = field(default_factory=Entry)  # how the program takes its images
    operations: list[Operation] = field(default_factory=list)
    sized: bool = False  # whether the program chose its way by sizes, and so holds for this one only
    held: dict[int, list[Held]] = field(default_factory=dict)  # by storage
    _names: int = 0
    _alive: int = 0
    _sharing: dict[int, weakref.WeakSet[Value]] = field(default_factory=dict)  # by storage

    def __post_init__(self) -> None:
        self._largest = largest_tensor(self.shape, self.batch)
        self._constants = Bounded(_CONSTANTS, _CONSTANTS)

    # -- where values come from --------------------------------------------

    def hold(self, original: Tensor, name: str, *, trainable: bool) -> Tensor:
        """A tensor of the file, as the program gets it."""
        tensor = as_float32(original)
        self.held.setdefault(_storage(tensor), []).append(Held(tensor, original, name, trainable))
        self._constants.largest += _MAX_GROWTH * tensor.numel()
        self._constants.altogether += _MAX_GROWTH * tensor.numel()
        return tensor

    def holding(self, tensor: Tensor) -> Held | None:
        """The tensor of the file that this one is, turned or cut; None where it was worked out."""
        start, size = tensor.data_ptr(), tensor.element_size()
        for held in self.held.get(_storage(tensor), ()):
            if held.tensor.data_ptr() <= start < held.tensor.data_ptr() + max(1, held.tensor.numel()) * size:
                return held
        return None

    def image(self) -> Value:
        counts = (self.batch, 2 * self.batch + 1)
        now, other = (self.entry(torch.empty((count, *self.shape), device=_META)) for count in counts)
        return self._value(now, other, image=True, varies=True)

    def _value(self, now: object, other: object, *, image: bool, varies: bool) -> Value:
        self._names += 1
        value = Value(f"v{self._names}", now, other, image=image, varies=varies)
        if isinstance(now, Tensor):
            self._alive += now.numel()
            weakref.finalize(value, self._release, now.numel())
            self._sharing.setdefault(_storage(now), weakref.WeakSet()).add(value)
            if now.numel() > self._largest:
                raise OutOfProportion(f"a tensor of {now.numel():,} numbers is out of proportion")
            if self._alive > _MAX_ALIVE * self._largest:
                raise OutOfProportion("it keeps far more than its layers need")
        return value

    def _release(self, count: int) -> None:
        self._alive -= count

    # -- what is done with them --------------------------------------------

    def call(self, op: str, /, *given: object, **by_name: object) -> object:
        """One operator; what it gives is a `Value` where it hangs on the image or its size."""
        check_time()
        base = op[:-1] if op.endswith("_") and not op.endswith("__") and op not in operators.SAME else op
        arguments: Sequence[object] = given
        named: Mapping[str, object] = {key: value for key, value in by_name.items() if key not in operators.IGNORED}
        if base in _SETTLED:
            first = arguments[0]
            return _SETTLED[base](_now(first))  # type: ignore[arg-type]
        if not operators.known(base):
            raise Unknown(op)
        if base in operators.SAME or (base == "contiguous" and _now(arguments[0]).is_contiguous()):  # type: ignore[attr-defined]
            return arguments[0]
        if base in operators.NEW:
            base, arguments, named = self._new(base, arguments, named)
        if base in operators.FACTORIES:
            arguments = tuple(tree_map(self._same_for_all, list(arguments)))
        values = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Value)]
        if any(value.stale for value in values):
            raise Undecidable("its code changes a tensor in place that it also sees in another form")
        if not values:
            return self._constant(base if base != op[:-1] else op, arguments, named)
        result = self._traced(base, arguments, named, values)
        if base == op[:-1]:
            self._change(arguments[0], result)
        return result

    def _same_for_all(self, value: object) -> object:
        """A size that is the same for any number of images is settled with the size of the image."""
        return self.decide(value) if isinstance(value, Value) and not (value.image or value.varies) else value

    def _new(
        self, op: str, arguments: Sequence[object], named: Mapping[str, object]
    ) -> tuple[str, Sequence[object], Mapping[str, object]]:
        """Made beside a tensor, of which only the type counts."""
        like, *rest = arguments
        dtype = named.get("dtype")
        return operators.NEW[op], rest, {**named, "dtype": _now(like).dtype if dtype is None else dtype}  # type: ignore[attr-defined]

    def _constant(self, op: str, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        first = arguments[0] if arguments else None
        if op.endswith("_") and isinstance(first, Tensor) and _storage(first) in self.held:
            raise Undecidable(f"its code changes a tensor of its own while it answers: {quoted(op)}")
        with torch.no_grad(), self._constants:
            return operators.apply(op, arguments, named, _CPU)

    def _traced(
        self, op: str, arguments: Sequence[object], named: Mapping[str, object], values: Sequence[Value]
    ) -> object:
        if len(self.operations) >= MAX_STEPS:
            raise OutOfProportion(f"it takes more than {MAX_STEPS:,} steps")
        image = any(value.image for value in values)
        if op in operators.READING and image:
            raise Undecidable("its code reads numbers out of the image, and so goes its own way with each")
        arguments = self._opened(op, arguments, values)
        now = self._run(op, *_each(_now, arguments, named), image=image)
        other = self._run(op, *_each(_other, arguments, named), image=image)
        leaves, others = tree_leaves(now), tree_leaves(other)
        if len(leaves) != len(others):
            raise Undecidable("its code makes more parts of more images")
        image = image and any(isinstance(leaf, Tensor) for leaf in leaves)
        varies = any(value.varies and not value.image for value in values)
        parts = [
            self._value(one, two, image=image, varies=varies or not _same(one, two))
            for one, two in zip(leaves, others, strict=True)
        ]
        positional, by_name = _each(self._reference, arguments, named)
        names = tuple(part.name for part in parts)
        self.operations.append(Operation(op, positional, by_name, names, image))
        return parts if isinstance(now, tuple | list) else parts[0]

    def _run(self, op: str, arguments: Sequence[object], named: Mapping[str, object], *, image: bool) -> object:
        """In earnest where it is about sizes alone, else without memory."""
        first = arguments[0] if arguments else None
        with torch.no_grad():
            if op in AS_LARGE and isinstance(first, Tensor) and first.is_meta:
                return _without_memory(first)
            if image:
                return operators.apply(op, *_each(_without_memory, arguments, named), _META)
            with self._constants:
                return operators.apply(op, arguments, named, _CPU)

    def _reference(self, value: object) -> object:
        if isinstance(value, Value):
            return Ref(value.name, value.now.dim() if isinstance(value.now, Tensor) else -1)
        if isinstance(value, Tensor) and _storage(value) not in self.held:
            return value.clone()  # the program may go on to change it
        return value

    def _opened(self, op: str, arguments: Sequence[object], values: Sequence[Value]) -> Sequence[object]:
        """The arguments, with the number of images left open where it was written out."""
        first = arguments[0]
        if op in operators.SHAPED and isinstance(first, Value) and len(values) == 1:
            source, more = first.now.shape, first.other.shape  # type: ignore[attr-defined]
            grown = next((i for i, size in enumerate(source) if more[i] != size), None)
            if grown is None:
                return arguments
            target = list(self._run(op, [first.now, *arguments[1:]], {}, image=True).shape)  # type: ignore[attr-defined]
            where = place(target, source, grown, self.batch)
            if where is not None:
                target[where] = -1
            return [first, target]
        if op in ("cat", "concat") and self.batch == 1 and isinstance(first, list | tuple):
            like = next((part for part in first if isinstance(part, Value) and part.varies), None)
            if like is not None and _now(arguments[1] if len(arguments) > 1 else 0) != 0:
                parts = [self._of_batch(part, like) for part in first]
                return [parts, *arguments[1:]]
        return arguments

    def _of_batch(self, part: object, like: Value) -> object:
        constant = isinstance(part, Tensor) and part.shape[:1] == (1,)
        return self.call("expand_batch", part, like) if constant else part

    def _change(self, changed: object, result: object) -> None:
        """In place: whoever holds the same tensor has the new one; who holds another view of it, nothing sound."""
        if not isinstance(changed, Value) or not isinstance(result, Value) or not changed.image:
            raise Undecidable("its code changes a tensor in place that hangs on no image")
        now = changed.now
        assert isinstance(now, Tensor)
        assert isinstance(result.now, Tensor)
        for value in list(self._sharing.get(_storage(now), ())):
            if value is result:
                continue
            one = value.now
            assert isinstance(one, Tensor)
            if (one.storage_offset(), one.shape, one.stride()) == (now.storage_offset(), now.shape, now.stride()):
                value.name, value.now, value.other, value.varies = result.name, result.now, result.other, result.varies
                self._sharing.setdefault(_storage(result.now), weakref.WeakSet()).add(value)
            else:
                value.stale = True

    def decide(self, value: object) -> object:
        """What the program goes by when it chooses its way: it must hold for every image and every number of them."""
        if not isinstance(value, Value):
            return value
        if value.image:
            raise Undecidable("its code goes one way or another by what the image shows")
        if value.varies:
            raise Undecidable("its code goes one way or another by the number of images")
        self.sized = True
        return value.now


def _now(value: object) -> object:
    return value.now if isinstance(value, Value) else value


def _other(value: object) -> object:
    return value.other if isinstance(value, Value) else value


def _without_memory(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)


def _each(
    function: Callable[[object], object], arguments: Sequence[object], named: Mapping[str, object]
) -> tuple[tuple[object, ...], Mapping[str, object]]:
    return tuple(tree_map(function, list(arguments))), tree_map(function, dict(named))


def _same(one: object, two: object) -> bool:
    """Whether it is the same whatever the number of images; of tensors without memory only the shape is known."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and (two.is_meta or torch.equal(one, two))
    return type(one) is type(two) and one == two


def same_operations(some: Sequence[Operation], others: Sequence[Operation]) -> bool:
    """Whether two recordings came to the same."""
    if [(one.op, one.outputs) for one in some] != [(two.op, two.outputs) for two in others]:
        return False
    pairs = zip(some, others, strict=True)
    leaves = ((tree_leaves((each.arguments, dict(each.named))) for each in pair) for pair in pairs)
    return all(len(one) == len(two) and all(map(_same, one, two)) for one, two in leaves)


def _storage(tensor: Tensor) -> int:
    """Which memory it lies in, as long as it is there; what has none is told apart all the same."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]
