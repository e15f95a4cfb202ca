"""Graphs that were written for one number of images, and whether they give each image the answer it gets alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bdscan.facts.problem import Problem, plain
from bdscan.load.arch.bounded import Bounded, largest_tensor

_MAX_PIXELS = 3 * 2048 * 2048  # numbers in one image; no classifier in use takes more
_MAX_BATCH = 1 << 9  # images that an export for a fixed number of them takes, and `_MAX_PIXELS` in all
# What a malformed graph makes of honest code: missing attributes, wrong shapes, wrong types.
MALFORMED = (
    *(KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, StopIteration),
)


def check_size(path: Path, shape: tuple[int, int, int], batch: int) -> None:
    """Before anything runs."""
    if math.prod(shape) * (batch if batch > _MAX_BATCH else 1) > _MAX_PIXELS:
        raise Problem(f"`{path}` takes {batch} image(s) of {shape}, which is out of proportion")


def check_batching(
    path: Path, shape: tuple[int, int, int], batch: int, run: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    """Two images must get the answers each gets alone: a graph written for one image may mix or drop them.

    `run` gives the answers for the first half of the pixels, which are as many images as the graph was written for,
    and for all of them.
    """
    check_size(path, shape, batch)
    pixels = torch.rand((2 * batch, *shape), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), Bounded(largest_tensor(shape, 2 * batch)):
            alone, both = run(pixels)
    except MALFORMED as error:
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


def place(target: Sequence[int], source: Sequence[int], grown: int, batch: int) -> int | None:
    """Which dimension of the target holds the batch: the one before which as many numbers stand as before.

    What the export wrote down leaves it open where the batch was merged with its neighbour. Transformers do three
    things: images x rows or rows x images to a dimension of its own, to more rows, or to more heads.
    """
    outer = math.prod(source[:grown])
    for before in (outer, outer * source[grown] // batch):
        for i, size in enumerate(target):
            if size == batch and math.prod(target[:i]) == before:
                return i
    there = next((i for i in range(len(target)) if math.prod(target[:i]) == outer), None)
    return there - 1 if there and len(target) < len(source) else there


def first_line(error: BaseException) -> str:
    return plain(str(error).partition("\n")[0] or type(error).__name__)
