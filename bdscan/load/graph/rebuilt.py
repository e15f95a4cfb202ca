"""What every reader of graphs gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from bdscan.load.graph.net import StepNet

Shape = tuple[int, int, int]  # channels, height and width


@dataclass(frozen=True, eq=False, kw_only=True)
class Rebuilt:
    """The net of a file that brings its own graph, and how much of the file is in it."""

    net: nn.Module
    name: str  # of the graph, for the report
    tensors_used: int
    tensors_total: int  # in the file
    shape: Shape | None = None  # of the images, where the file states it
    sizes: tuple[int, ...] = (32, 224, 28, 64, 299)  # sides to try where it does not
    notes: tuple[str, ...] = ()
    normalised: bool = False  # whether all that is done to the pixels stands in the graph
    variants: tuple[tuple[str, nn.Module], ...] = ()  # where the file leaves something open: what, and the net then


def shape_of(sides: Sequence[int]) -> Shape | None:
    """Of the image that has these axes: all three, none for channels, or its numbers in one row."""
    if len(sides) == 1:
        return square(sides[0])
    return (1, sides[0], sides[1]) if len(sides) == 2 else (sides[0], sides[1], sides[2])


def square(numbers: int) -> Shape | None:
    """The grey or coloured square of so many numbers; None where there is none."""
    for channels in (1, 3):
        side = math.isqrt(numbers // channels)
        if channels * side * side == numbers:
            return channels, side, side
    return None


def orders(net: StepNet, shape: Shape | None) -> tuple[tuple[str, nn.Module], ...]:
    """Where it takes the numbers of a colour image in one row: the orders in which they may stand there."""
    if net.entry.axes != 2 or (shape is not None and shape[0] == 1):
        return ()
    other = copy.copy(net)
    other.entry = replace(net.entry, channels_last=True)
    return ("one channel after the other in its row", net), ("one pixel after the other in its row", other)
