"""ONNX files rebuilt as torch nets: read as data, never run by an ONNX runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.arch.bounded import OutOfProportion, largest_tensor
from bdscan.load.graph.batch import MALFORMED, check_batching, first_line, place
from bdscan.load.graph.net import StepNet
from bdscan.load.graph.rebuilt import Rebuilt, orders
from bdscan.load.onnx.entry import image_shape
from bdscan.load.onnx.graph import Graph, graph_of, parse
from bdscan.load.onnx.net import Operator, build, without_softmax
from bdscan.load.onnx.shapes import reshape

_MAX_ALIVE = 4  # times the largest tensor: what may be kept for later steps at once


def rebuild(path: Path) -> Rebuilt:
    model = parse(path)
    return rebuilt(lambda: graph_of(model, path), path, "onnx graph")


def rebuilt(read: Callable[[], Graph], path: Path, name: str) -> Rebuilt:
    """The net of a graph that is yet to be read, and that it takes any number of images."""
    try:
        graph, note = without_softmax(read())
        net = build(graph)
    except MALFORMED as error:
        raise Problem(f"`{path}` cannot be rebuilt, its graph is malformed: {first_line(error)}") from error
    net.eval()
    shape = image_shape(graph, net.entry)
    if shape is not None:
        batch = graph.dims[0] or 1
        check_batching(path, shape, batch, lambda pixels: _open_batch(net, pixels, batch))
    return Rebuilt(
        net=net,
        name=name,
        tensors_used=graph.used,
        tensors_total=graph.tensors,
        shape=shape,
        notes=(*graph.notes, *([note] if note else [])),
        normalised=net.entry.scale != 1,
        variants=orders(net, shape),
    )


def _open_batch(net: StepNet, pixels: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Run the batch of the export and twice as many images side by side, and let the reshapes follow what grows.

    The answers come back: where the batch is open, the first images get the same one in both.
    """
    single, double = net.begin(pixels[:batch]), net.begin(pixels)
    room = _MAX_ALIVE * largest_tensor(pixels.shape[1:], 2 * batch)
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
    where = place(target, single.shape, grown, batch)
    if where is not None:
        target[where] = -1
        child.cpu_constants[1] = torch.tensor(target)
