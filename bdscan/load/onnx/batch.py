"""Opens a graph that was exported for one batch size to any: a reshape must keep the images apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bdscan.load.onnx.net import Operator, RebuiltNet
from bdscan.load.onnx.shapes import reshape


def open_batch(net: RebuiltNet, shape: tuple[int, int, int], batch: int) -> tuple[Tensor, Tensor]:
    """Run the batch of the export and twice as many images side by side, and let the reshapes follow what grows.

    The answers come back: where the batch is open, the first images get the same one in both.
    """
    pixels = torch.rand((2 * batch, *shape), generator=torch.Generator().manual_seed(0))
    single, double = net.begin(pixels[:batch]), net.begin(pixels)
    for step in net.steps:
        child = None if step.shape_operator is not None else net.get_submodule(step.child)
        if isinstance(child, Operator) and child.op == "Reshape" and 1 in child.cpu_constants:
            _open(child, single[step.inputs[0]], double[step.inputs[0]].shape, batch)
        net.advance(single, step)
        net.advance(double, step)
    return single[net.answer], double[net.answer]


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
