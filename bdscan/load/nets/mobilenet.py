"""MobileNetV2 for CIFAR: `layers.N.conv1` ... `conv3`, `conv2`, `linear`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from bdscan.load.nets.candidate import Candidate, Head, Outline, conv, count_numbered


class Block(nn.Module):
    """Widen, look around in each channel, narrow; a block that changes the width without a shortcut halves the size."""

    def __init__(self, outline: Outline, name: str, width: int) -> None:
        super().__init__()
        shapes = [outline[f"{name}.conv{i}.weight"] for i in (1, 2, 3)]
        start, around = width, outline.get(f"{name}.shortcut.0.weight", ())
        self.stride = 2 if start != shapes[-1][0] and not around else 1
        for i, shape in enumerate(shapes, 1):
            self.add_module(f"conv{i}", conv(shape, width, self.stride if i == 2 else 1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(shape[0]))
            width = shape[0]
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Sequential(conv(around, start), nn.BatchNorm2d(width)) if around else nn.Sequential()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))  # type: ignore[operator]
        out = self.relu2(self.bn2(self.conv2(out)))  # type: ignore[operator]
        out = self.bn3(self.conv3(out))  # type: ignore[operator]
        return out + self.shortcut(x) if self.stride == 1 else out  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """Stem, blocks, a last 1x1 convolution, pooling, linear head."""

    def __init__(self, outline: Outline) -> None:
        super().__init__()
        stem, last = outline["conv1.weight"], outline["conv2.weight"]
        self.conv1, self.bn1, self.relu1 = conv(stem, stem[1]), nn.BatchNorm2d(stem[0]), nn.ReLU()
        self.layers, width = nn.Sequential(), stem[0]
        for i in range(count_numbered("layers.{}.conv1.weight", outline)):
            block = Block(outline, f"layers.{i}", width)
            self.layers.append(block)
            width = block.width
        self.conv2, self.bn2, self.relu2 = conv(last, width), nn.BatchNorm2d(last[0]), nn.ReLU()
        self.avgpool = Head()
        classes, features = outline["linear.weight"]
        self.linear = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu1(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(self.avgpool(self.relu2(self.bn2(self.conv2(x)))))
        return logits


def candidates(outline: Outline) -> Iterator[Candidate]:
    """One, if the first block has the three convolutions."""
    if {f"layers.0.conv{i}.weight" for i in (1, 2, 3)} <= set(outline):
        yield Candidate(name="mobilenetv2 (CIFAR)", build=partial(MobileNetV2, outline))
