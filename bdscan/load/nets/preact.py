"""Residual nets with the activation first: PreActResNet-18 ... 152 and wide ResNets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from bdscan.load.nets.candidate import Candidate, Head, Outline, conv, count_numbered


class Block(nn.Module):
    """Norm, activation, convolution, two or three times, and a way around them.

    The shortcut, where there is one, starts from the activated maps, or with `raw` from the block's own input.
    """

    def __init__(self, outline: Outline, name: str, width: int, stride: int, around: str, *, raw: bool) -> None:
        super().__init__()
        self.convs = count_numbered(f"{name}.conv{{}}.weight", outline, 1)
        self.raw, self.around, start = raw, "", width
        for i in range(1, self.convs + 1):
            shape, bias = outline[f"{name}.conv{i}.weight"], f"{name}.conv{i}.bias" in outline
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            self.add_module(f"relu{i}", nn.ReLU())
            strided = i == (self.convs - 1 if not raw else self.convs)
            self.add_module(f"conv{i}", conv(shape, width, stride if strided else 1, bias=bias))
            width = shape[0]
        self.width = width
        shape = outline.get(f"{name}.{around}.weight", ())
        if shape:
            self.around = around
            shortcut = conv(shape, start, stride, bias=f"{name}.{around}.bias" in outline)
            parent, dot, _ = around.partition(".")
            self.add_module(parent, nn.Sequential(shortcut) if dot else shortcut)
        elif start != width:
            raise ValueError(name)

    def forward(self, x: Tensor) -> Tensor:
        out, shortcut = x, x
        for i in range(1, self.convs + 1):
            out = getattr(self, f"relu{i}")(getattr(self, f"bn{i}")(out))
            if i == 1 and self.around:
                shortcut = self.get_submodule(self.around)(x if self.raw else out)
            out = getattr(self, f"conv{i}")(out)
        return out + shortcut


class PreAct(nn.Module):
    """Convolution, stages, perhaps a last norm and activation, pooling, linear head."""

    def __init__(self, outline: Outline, stages: list[str], around: str, norm: str, head: str, *, raw: bool) -> None:
        super().__init__()
        stem = outline["conv1.weight"]
        self.conv1 = conv(stem, stem[1], bias="conv1.bias" in outline)
        width = stem[0]
        for number, stage in enumerate(stages):
            blocks = nn.Sequential()
            for i in range(count_numbered(f"{stage}.{{}}.conv1.weight", outline)):
                stride = 2 if number and i == 0 else 1
                block = Block(outline, f"{stage}.{i}", width, stride, around, raw=raw)
                blocks.append(block)
                width = block.width
            parent, _, leaf = stage.partition(".")
            self.add_module(parent, nn.Sequential() if leaf else blocks)
            if leaf:
                self.get_submodule(parent).add_module(leaf, blocks)
        if norm:
            self.add_module(norm, nn.BatchNorm2d(width))
        classes, features = outline[f"{head}.weight"]
        self.relu = nn.ReLU()
        self.avgpool = Head(window=4 if features > width else 0)
        self.add_module(head, nn.Linear(features, classes))
        self.stages, self.norm, self.head = stages, norm, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        if self.norm:
            x = self.relu(getattr(self, self.norm)(x))
        logits: Tensor = getattr(self, self.head)(self.avgpool(x))
        return logits


def residual(outline: Outline) -> Iterator[Candidate]:
    """PreActResNets: `layer1.0.bn1`, ..., `shortcut.0`, `linear`; the last norm is there if the file has one."""
    stages = [f"layer{i + 1}" for i in range(count_numbered("layer{}.0.conv1.weight", outline, 1))]
    if not stages:
        return
    blocks = sum(count_numbered(f"{stage}.{{}}.conv1.weight", outline) for stage in stages)
    depth = 2 + blocks * count_numbered("layer1.0.conv{}.weight", outline, 1)
    norm = next((name for name in ("bn", "bn1") if f"{name}.weight" in outline), "")
    head = "fc" if "fc.weight" in outline else "linear"
    # Wide nets of this naming put the stride last, and their convolutions have biases.
    raw = "layer1.0.conv1.bias" in outline
    name = f"wide resnet ({len(stages)} stages)" if raw else f"preactresnet{depth}"
    build = partial(PreAct, outline, stages, "shortcut.0", norm, head, raw=raw)
    block = f"{stages[-1]}.0"
    width = outline[f"{block}.conv{count_numbered(f'{block}.conv{{}}.weight', outline, 1)}.weight"][0]
    # Where a pooling window of 4 left more than one position, the head's width tells the size of the images.
    side = max(1, math.isqrt(outline[f"{head}.weight"][1] // width))
    yield Candidate(name=name, build=build, sizes=(32 * side,), fixed_size=side > 1)


def wide(outline: Outline) -> Iterator[Candidate]:
    """Wide ResNets: `block1.layer.0.bn1`, ..., `convShortcut`, a last `bn1`, `fc`."""
    stages = [f"block{i + 1}.layer" for i in range(count_numbered("block{}.layer.0.conv1.weight", outline, 1))]
    if not stages:
        return
    depth = 4 + sum(2 * count_numbered(f"{stage}.{{}}.conv1.weight", outline) for stage in stages)
    width = outline["block1.layer.0.conv1.weight"][0] / outline["conv1.weight"][0]
    build = partial(PreAct, outline, stages, "convShortcut", "bn1", "fc", raw=False)
    yield Candidate(name=f"wrn-{depth}-{width:g}", build=build)
