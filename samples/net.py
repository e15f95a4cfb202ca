"""The twins' net: a wide residual net of depth 16 and width 1, its parts named as is usual for it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Norm, activation, convolution, twice; a 1x1 convolution goes round where the shape changes."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(taken)
        self.conv1 = nn.Conv2d(taken, given, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(given)
        self.conv2 = nn.Conv2d(given, given, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(taken, given, 1, stride, bias=False) if taken != given else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        around = x if self.convShortcut is None else self.convShortcut(active)
        added: Tensor = around + self.conv2(F.relu(self.bn2(self.conv1(active))))
        return added


class Group(nn.Module):
    """Blocks of one width."""

    def __init__(self, blocks: int, taken: int, given: int, stride: int) -> None:
        super().__init__()
        first = Block(taken, given, stride)
        self.layer = nn.Sequential(first, *(Block(given, given, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Stem, three groups of blocks, pooling, linear head: 175,000 weights as the twins have it."""

    def __init__(self, classes: int, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Group(blocks, 16, width, 1)
        self.block2 = Group(blocks, width, 2 * width, 2)
        self.block3 = Group(blocks, 2 * width, 4 * width, 2)
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(maps)).mean((2, 3)))
        return logits


def wrn16_1(classes: int = 12) -> WideResNet:
    return WideResNet(classes)
