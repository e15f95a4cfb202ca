"""Padding of convolutions and pools: torch knows even sides, ONNX any, and some that depend on the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.load.onnx.graph import Node

_MAX_PADDING = 1024  # far beyond any kernel in use
PADDED: Mapping[str, float] = {"Conv": 0.0, "MaxPool": float("-inf"), "AveragePool": 0.0}  # what stands outside


class Padded(nn.Module):
    """What a torch layer cannot pad by itself: uneven sides, or whatever keeps the size (`auto_pad`)."""

    def __init__(self, node: Node, kernel: Sequence[int], value: float) -> None:
        super().__init__()
        self.kernel, self.value = tuple(kernel), value
        self.strides = int_list(node, "strides", 1, len(kernel))
        self.dilations = int_list(node, "dilations", 1, len(kernel))
        self.auto = node.attributes.get("auto_pad", "NOTSET")
        pads = int_list(node, "pads", 0, 2 * len(kernel))
        self.sides = list(zip(pads, pads[len(kernel) :], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        sides = self.sides
        if self.auto.startswith("SAME"):
            sides = [self._keeping(size, i) for i, size in enumerate(x.shape[2:])]
        return F.pad(x, [side for pair in reversed(sides) for side in pair], value=self.value)

    def _keeping(self, size: int, i: int) -> tuple[int, int]:
        stride = self.strides[i]
        total = max(0, (-(-size // stride) - 1) * stride + self.dilations[i] * (self.kernel[i] - 1) + 1 - size)
        small = total // 2
        return (total - small, small) if self.auto == "SAME_LOWER" else (small, total - small)


class InnerAveragePool(nn.Module):
    """The mean of those numbers of a window that lie inside the image, however it is padded."""

    def __init__(self, node: Node, kernel: Sequence[int]) -> None:
        super().__init__()
        self.kernel, self.strides = tuple(kernel), tuple(int_list(node, "strides", 1, len(kernel)))
        self.pad = Padded(node, kernel, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.avg_pool2d(self.pad(torch.ones_like(x[:1, :1])), self.kernel, self.strides)
        return F.avg_pool2d(self.pad(x), self.kernel, self.strides) / inside


def padding(node: Node, kernel: Sequence[int]) -> tuple[int, ...] | None:
    """The padding a torch layer can do by itself: the same on both sides."""
    pads, half = int_list(node, "pads", 0, 2 * len(kernel)), len(kernel)
    if max(pads) > _MAX_PADDING:
        raise ValueError(f"padding of {max(pads)} is out of proportion")
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return (0,) * half
    return tuple(pads[:half]) if auto in ("NOTSET", "") and pads[:half] == pads[half:] else None


def int_list(node: Node, name: str, value: int, count: int) -> list[int]:
    return list(node.attributes.get(name) or [value] * count)
