"""Residual nets with the activation last: ResNet-18 ... 152, ResNet-20 ... 110 for CIFAR, wide and grouped ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.load.nets.candidate import Candidate, Head, Outline, conv, count_numbered

Pad = Literal["around", "behind"]


class Pick(nn.Module):
    """A shortcut without tensors (option A): every other position, and channels of zeros."""

    def __init__(self, extra: int, stride: int, pad: Pad) -> None:
        super().__init__()
        self.stride = stride
        self.before = extra // 2 if pad == "around" else 0
        self.after = extra - self.before

    def forward(self, maps: Tensor) -> Tensor:
        picked = maps[:, :, :: self.stride, :: self.stride]
        return F.pad(picked, (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two or three convolutions and a way around them; the middle one (or the first of two) has the stride."""

    def __init__(
        self, shapes: list[tuple[int, ...]], width: int, stride: int, around: str, shortcut: nn.Module
    ) -> None:
        super().__init__()
        strided = len(shapes) - 2  # the second of three, the first of two
        for i, shape in enumerate(shapes):
            self.add_module(f"conv{i + 1}", conv(shape, width, stride if i == strided else 1))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(shape[0]))
            self.add_module(f"relu{i + 1}", nn.ReLU())
            width = shape[0]
        self.add_module(around, shortcut)
        self.around, self.convs = around, len(shapes)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.convs + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i == self.convs:
                out = out + getattr(self, self.around)(x)
            out = getattr(self, f"relu{i}")(out)
        return out


@dataclass(frozen=True)
class Plan:
    """The net as its tensors tell it."""

    outline: Outline
    stem: tuple[int, ...]
    stages: tuple[int, ...]  # blocks in each
    convs: int  # in a block
    around: str  # what its shortcuts are called
    head: str

    def shapes(self, block: str) -> list[tuple[int, ...]]:
        return [self.outline[f"{block}.conv{i + 1}.weight"] for i in range(self.convs)]

    @property
    def name(self) -> str:
        shapes = self.shapes("layer1.0")
        groups = shapes[1][0] // shapes[1][1] if self.convs == 3 else 1
        depth = sum(self.stages) * self.convs + 2
        kind = f"resnext{depth}_{groups}x{shapes[1][1]}d" if groups > 1 else f"resnet{depth}"
        return f"{kind} ({self.stem[2]}x{self.stem[3]} stem, {len(self.stages)} stages)"


class ResNet(nn.Module):
    """Stem, stages, pooling, linear head."""

    def __init__(self, plan: Plan, *, stride: int, maxpool: bool, pad: Pad = "around") -> None:
        super().__init__()
        self.conv1 = conv(plan.stem, plan.stem[1], stride)
        self.bn1, self.relu = nn.BatchNorm2d(plan.stem[0]), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if maxpool else nn.Identity()
        width = plan.stem[0]
        for number, blocks in enumerate(plan.stages, 1):
            stage = nn.Sequential()
            for i in range(blocks):
                name = f"layer{number}.{i}"
                step = 2 if number > 1 and i == 0 else 1
                shapes = plan.shapes(name)
                stage.append(Block(shapes, width, step, plan.around, _around(plan, name, width, step, pad)))
                width = shapes[-1][0]
            self.add_module(f"layer{number}", stage)
        classes, features = plan.outline[f"{plan.head}.weight"]
        self.avgpool = Head(window=4 if features > width else 0)
        self.add_module(plan.head, nn.Linear(features, classes))
        self.stages, self.head = len(plan.stages), plan.head

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        logits: Tensor = getattr(self, self.head)(self.avgpool(x))
        return logits


def _around(plan: Plan, block: str, width: int, stride: int, pad: Pad) -> nn.Module:
    shape = plan.outline.get(f"{block}.{plan.around}.0.weight")
    if shape is not None:
        return nn.Sequential(conv(shape, width, stride), nn.BatchNorm2d(shape[0]))
    extra = plan.shapes(block)[-1][0] - width
    return Pick(extra, stride, pad) if extra or stride > 1 else nn.Sequential()


def candidates(outline: Outline) -> Iterator[Candidate]:
    """One for every stem and every shortcut that the tensors leave open, the commonest first."""
    plan = _plan(outline)
    variants = list(_variants(plan))
    last = plan.shapes(f"layer{len(plan.stages)}.0")[-1][0]
    side = max(1, math.isqrt(outline[f"{plan.head}.weight"][1] // last))  # 2 where a window of 4 left 2x2
    for build, variant, size in variants:
        yield Candidate(
            name=plan.name,
            build=build,
            sizes=(size * side,),
            fixed_size=side > 1,
            variant=variant if len(variants) > 1 else "",
        )


def _plan(outline: Outline) -> Plan:
    stages = tuple(
        count_numbered(f"layer{number}.{{}}.conv1.weight", outline)
        for number in range(1, 1 + count_numbered("layer{}.0.conv1.weight", outline, 1))
    )
    if not stages:
        raise KeyError("layer1")
    return Plan(
        outline=outline,
        stem=outline["conv1.weight"],
        stages=stages,
        convs=count_numbered("layer1.0.conv{}.weight", outline, 1),
        around="downsample" if any(".downsample." in name for name in outline) else "shortcut",
        head="fc" if "fc.weight" in outline else "linear",
    )


def _variants(plan: Plan) -> Iterator[tuple[Callable[[], nn.Module], str, int]]:
    if plan.stem[2] > 3:
        yield partial(ResNet, plan, stride=2, maxpool=True), "", 224
        return
    if any(f".{plan.around}.0." in name for name in plan.outline):
        yield partial(ResNet, plan, stride=1, maxpool=False), "stride 1 and no max-pooling in the stem", 32
        if plan.head == "fc" and len(plan.stages) == 4:  # torchvision's, its stem replaced and its pooling perhaps not
            yield partial(ResNet, plan, stride=1, maxpool=True), "stride 1 and max-pooling in the stem", 32
        return
    pads: tuple[Pad, Pad] = ("around", "behind")
    for pad in pads:
        build = partial(ResNet, plan, stride=1, maxpool=False, pad=pad)
        yield build, f"shortcuts filled with zeros {pad} the channels", 32
