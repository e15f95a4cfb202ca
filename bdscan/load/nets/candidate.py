"""What a net could be, as read off the names and shapes of its tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Outline = Mapping[str, tuple[int, ...]]  # every tensor's name and shape
# BatchNorm's step count: files from before torch 0.4.1 have none, and nothing depends on it.
BATCH_COUNTER = "num_batches_tracked"
# What reading a net off the tensors raises, or building it, where no such net can have tensors of such shapes.
NOT_SUCH_A_NET = (
    KeyError,
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """A net that may be the file's, not yet built."""

    name: str
    build: Callable[[], nn.Module]
    sizes: tuple[int, ...] = (32,)  # sides of the images it is made for, the likeliest first
    fixed_size: bool = False  # its tensors fit no other side
    variant: str = ""  # what tells it from others with the same tensors
    inferred: bool = False  # whether nobody says that it is this net, and only images can
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None  # from the file's names to the net's
    needs_real_tensors: bool = False  # must be built with real tensors: its code is not ours to put on the meta device


Family = Callable[[Outline], Iterator[Candidate]]


def outline_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes without BatchNorm's counters."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(BATCH_COUNTER)}


def count_numbered(pattern: str, outline: Outline, start: int = 0) -> int:
    """How many numbers in a row, from `start` on, make the pattern the name of a tensor."""
    return next(i for i in itertools.count() if pattern.format(i + start) not in outline)


def conv(shape: tuple[int, ...], width: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """The convolution with such a weight over so many channels, padded to keep the size."""
    out, depth, high, wide = shape
    padding = (high // 2, wide // 2)
    return nn.Conv2d(width, out, (high, wide), stride, padding, groups=width // depth, bias=bias)


class Head(nn.Module):
    """Pools the last maps to `side` x `side` positions, if that, for the linear layer that follows."""

    def __init__(self, side: int = 1, window: int = 0) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(window) if window else nn.AdaptiveAvgPool2d(side)

    def forward(self, maps: Tensor) -> Tensor:
        pooled: Tensor = self.pool(maps)
        return pooled.flatten(1)
