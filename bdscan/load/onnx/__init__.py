"""ONNX files rebuilt as torch nets: read as data, never run by an ONNX runtime."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.arch.bounded import Bounded, OutOfProportion, largest_tensor
from bdscan.load.graph.net import StepNet
from bdscan.load.graph.rebuilt import Rebuilt
from bdscan.load.onnx.entry import rows_last, shape_of
from bdscan.load.onnx.graph import Graph, first_line, graph_of, parse
from bdscan.load.onnx.net import Operator, build, without_softmax
from bdscan.load.onnx.shapes import reshape

_MAX_PIXELS = 3 * 2048 * 2048  # numbers in one image; no classifier in use takes more
_MAX_BATCH = 1 << 9  # images that an export for a fixed number of them takes, and `_MAX_PIXELS` in all
_MAX_ALIVE = 4  # times the largest tensor: what may be kept for later steps at once
# What a malformed graph makes of honest code: missing attributes, wrong shapes, wrong types.
_MALFORMED = (
    *(KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, StopIteration),
)


def rebuild(path: Path) -> Rebuilt:
    model = parse(path)
    return rebuilt(lambda: graph_of(model, path), path, "onnx graph")


def rebuilt(read: Callable[[], Graph], path: Path, name: str) -> Rebuilt:
    """The net of a graph that is yet to be read, and that it takes any number of images."""
    try:
        graph, note = without_softmax(read())
        net = build(graph)
    except _MALFORMED as error:
        raise Problem(f"`{path}` cannot be rebuilt, its graph is malformed: {first_line(error)}") from error
    net.eval()
    shape = shape_of(graph, net.entry)
    if shape is not None:
        _check_batching(net, shape, graph.dims[0] or 1, path)
    return Rebuilt(
        net=net,
        name=name,
        tensors_used=graph.used,
        tensors_total=graph.tensors,
        shape=shape,
        notes=(*graph.notes, *([note] if note else [])),
        normalised=net.entry.scale != 1,
        variants=tuple(_orders(net, graph)),
    )


def _orders(net: StepNet, graph: Graph) -> Iterator[tuple[str, StepNet]]:
    """The orders in which it may take the numbers of an image, where it takes them in one row."""
    other = rows_last(graph, net.entry)
    if other is not None:
        last = copy.copy(net)
        last.entry = other
        yield "one channel after the other in its row", net
        yield "one pixel after the other in its row", last


def _check_batching(net: StepNet, shape: tuple[int, int, int], batch: int, path: Path) -> None:
    """Two images must get the answers each gets alone: a graph written for one image may mix or drop them."""
    if math.prod(shape) * (batch if batch > _MAX_BATCH else 1) > _MAX_PIXELS:
        raise Problem(f"`{path}` takes {batch} image(s) of {shape}, which is out of proportion")
    try:
        with torch.no_grad(), Bounded(largest_tensor(shape, 2 * batch)):
            alone, both = _open_batch(net, shape, batch)
    except _MALFORMED as error:
        hint = "if it was exported for one batch size, export it again with a dynamic batch"
        raise Problem(f"`{path}` was rebuilt but does not run: {first_line(error)}", hint=hint) from error
    if alone.dim() != 2 or len(alone) != batch:
        raise Problem(f"`{path}` gives an answer of {tuple(alone.shape)} for {batch} image(s): no classifier")
    same = both.shape == (2 * batch, alone.shape[1]) and torch.allclose(
        both[:batch], alone, rtol=1e-2, atol=1e-3 * float(alone.abs().nan_to_num().max()), equal_nan=True
    )
    if not same:
        hint = "export it again with a dynamic batch"
        raise Problem(f"`{path}` mixes the images of a batch: it was exported for one batch size", hint=hint)


def _open_batch(net: StepNet, shape: tuple[int, int, int], batch: int) -> tuple[Tensor, Tensor]:
    """Run the batch of the export and twice as many images side by side, and let the reshapes follow what grows.

    The answers come back: where the batch is open, the first images get the same one in both.
    """
    pixels = torch.rand((2 * batch, *shape), generator=torch.Generator().manual_seed(0))
    single, double = net.begin(pixels[:batch]), net.begin(pixels)
    room = _MAX_ALIVE * largest_tensor(shape, 2 * batch)
    for step in net.steps:
        child = None if step.on_shapes is not None else net.get_submodule(step.child)
        if isinstance(child, Operator) and child.op == "Reshape" and 1 in child.cpu_constants:
            _open(child, single[step.inputs[0]], double[step.inputs[0]].shape, batch)
        net.advance(single, step)
        room += _count(double, step.last_use)
        net.advance(double, step)
        room -= _count(double, step.outputs)
        if room < 0:
            raise OutOfProportion("it keeps far more than its layers need")
    return single[net.answer], double[net.answer]


def _count(values: Mapping[str, Tensor], names: Sequence[str]) -> int:
    """The numbers in those of the values that are there."""
    return sum(values[name].numel() for name in names if name in values)


def _open(child: Operator, single: Tensor, double: Sequence[int], batch: int) -> None:
    grown = next((i for i, size in enumerate(single.shape) if double[i] != size), None)
    if grown is None:
        return
    target = list(reshape(child.attributes, single, child.cpu_constants[1]).shape)
    place = _place(target, single.shape, grown, batch)
    if place is not None:
        target[place] = -1
        child.cpu_constants[1] = torch.tensor(target)


def _place(target: Sequence[int], source: Sequence[int], grown: int, batch: int) -> int | None:
    """Which dimension of the target holds the batch: the one before which as many numbers stand as before.

    What the export wrote down leaves it open where the batch was merged with its neighbour. Transformers do three
    things: images x rows or rows x images to a dimension of its own, to more rows, or to more heads.
    """
    outer = math.prod(source[:grown])
    for before in (outer, outer * source[grown] // batch):
        for i, size in enumerate(target):
            if size == batch and math.prod(target[:i]) == before:
                return i
    place = next((i for i in range(len(target)) if math.prod(target[:i]) == outer), None)
    return place - 1 if place and len(target) < len(source) else place
