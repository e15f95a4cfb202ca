"""What every reader of graphs gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, eq=False, kw_only=True)
class Rebuilt:
    """The net of a file that brings its own graph, and how much of the file is in it."""

    net: nn.Module
    name: str  # of the graph, for the report
    tensors_used: int
    tensors_total: int  # in the file
    shape: tuple[int, int, int] | None = None  # channels, height and width of the images, where the file states them
    sizes: tuple[int, ...] = (32, 224, 28, 64, 299)  # sides to try where it does not
    notes: tuple[str, ...] = ()
    normalised: bool = False  # whether all that is done to the pixels stands in the graph
    variants: tuple[tuple[str, nn.Module], ...] = ()  # where the file leaves something open: what, and the net then


def square(numbers: int) -> tuple[int, int, int] | None:
    """Channels, height and width of the grey or coloured square of so many numbers; None where there is none."""
    for channels in (1, 3):
        side = math.isqrt(numbers // channels)
        if channels * side * side == numbers:
            return channels, side, side
    return None
