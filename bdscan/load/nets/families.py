"""The built-in families by their plain names: what the tensors of such a net are called and shaped."""

from __future__ import annotations

import re

from torch import nn

from bdscan.load.nets import preact, resnet, vgg
from bdscan.load.nets.candidate import Family, Outline

Shapes = dict[str, tuple[int, ...]]

_WIDTHS = (64, 128, 256, 512)
_BASIC = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}
_BOTTLENECK = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
_NARROW = {"20": 3, "32": 5, "44": 7, "56": 9, "110": 18}  # He et al.'s for CIFAR: blocks in each of three stages
_VGG: dict[str, str] = {  # Simonyan and Zisserman's configurations A, B, D and E: convolutions before each pooling
    "11": "11222",
    "13": "22222",
    "16": "22333",
    "19": "22444",
}
_WRN = re.compile(r"wrn-(\d+)-(\d+)")
_MAX_FACTOR = 100  # blocks in a group, and times the usual width: more is a slip of the finger

NAMES = (
    *(f"wrn-{depth}-{width}" for depth in (16, 28, 40, 22, 10) for width in (1, 2, 4, 8, 10)),
    *(f"preact-resnet-{depth}" for depth in (*_BASIC, *_BOTTLENECK)),
    *(f"resnet-{depth}" for depth in (*_BASIC, *_BOTTLENECK, *_NARROW)),
    *(f"vgg-{depth}" for depth in _VGG),
)


def build(name: str, classes: int, shape: tuple[int, int, int]) -> nn.Module | None:
    """The net of that name, its convolutions drawn after He et al. (2015); None if no family has one."""
    planned = _planned(name, classes, shape)
    if planned is None:
        return None
    family, shapes = planned
    net = next(iter(family(shapes))).build()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def named(name: str, outline: Outline) -> Family | None:
    """The family of the net of that name; one without candidates where the tensors have other kernels. None: no such
    name."""
    planned = _planned(name, 2, (3, 32, 32))
    if planned is None:
        return None
    family, shapes = planned
    return family if _kernels(shapes) == _kernels(outline) else lambda _: iter(())


def _kernels(outline: Outline) -> list[tuple[int, ...]]:
    """Whatever they are called, and however many channels the images have."""
    return sorted((*shape[:1], *shape[2:]) for shape in outline.values() if len(shape) == 4)


def _planned(name: str, classes: int, shape: tuple[int, int, int]) -> tuple[Family, Shapes] | None:
    """Which family, and every tensor's name and shape (counters apart)."""
    kind, _, depth = name.rpartition("-")
    wide = _WRN.fullmatch(name)
    if wide is not None:
        shapes = _wide(int(wide[1]), int(wide[2]), classes, shape[0])
        return (preact.wide, shapes) if shapes else None
    if kind == "preact-resnet" and depth in {*_BASIC, *_BOTTLENECK}:
        return preact.residual, _staged(depth, classes, shape[0], norm_behind=False)
    if kind == "resnet" and depth in {*_BASIC, *_BOTTLENECK, *_NARROW}:
        return resnet.candidates, _staged(depth, classes, shape[0], norm_behind=True)
    if kind == "vgg" and depth in _VGG:
        return vgg.candidates, _vgg(_VGG[depth], classes, shape)
    return None


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def _linear(name: str, features: int, classes: int) -> Shapes:
    return {f"{name}.weight": (classes, features), f"{name}.bias": (classes,)}


def _wide(depth: int, times: int, classes: int, channels: int) -> Shapes | None:
    """Zagoruyko and Komodakis: three groups of (depth - 4) / 6 blocks."""
    blocks, remainder = divmod(depth - 4, 6)
    if remainder or not 0 < blocks <= _MAX_FACTOR or not 0 < times <= _MAX_FACTOR:
        return None
    shapes: Shapes = {"conv1.weight": (16, channels, 3, 3)}
    width_in = 16
    for group in range(3):
        width_out = 16 * times << group
        for i in range(blocks):
            block = f"block{group + 1}.layer.{i}"
            shapes |= _norm(f"{block}.bn1", width_in) | _norm(f"{block}.bn2", width_out)
            shapes |= {
                f"{block}.conv1.weight": (width_out, width_in, 3, 3),
                f"{block}.conv2.weight": (width_out, width_out, 3, 3),
            }
            if width_in != width_out:
                shapes[f"{block}.convShortcut.weight"] = (width_out, width_in, 1, 1)
            width_in = width_out
    return shapes | _norm("bn1", width_in) | _linear("fc", width_in, classes)


def _staged(depth: str, classes: int, channels: int, *, norm_behind: bool) -> Shapes:
    """ResNets with norms behind the convolutions (`norm_behind`) or before them, with the 3x3 stem for small images."""
    stages = (_NARROW[depth],) * 3 if depth in _NARROW else (_BASIC | _BOTTLENECK)[depth]
    widths = (16, 32, 64) if depth in _NARROW else _WIDTHS
    stem = widths[0]
    shapes: Shapes = {"conv1.weight": (stem, channels, 3, 3)} | (_norm("bn1", stem) if norm_behind else {})
    width_in = stem
    for stage, (count, width) in enumerate(zip(stages, widths, strict=True), 1):
        for i in range(count):
            block = f"layer{stage}.{i}"
            convs = _convs(width_in, width, bottleneck=depth in _BOTTLENECK)
            for j, conv in enumerate(convs, 1):
                shapes |= {f"{block}.conv{j}.weight": conv} | _norm(f"{block}.bn{j}", conv[0 if norm_behind else 1])
            width_out = convs[-1][0]
            if i == 0 and (
                stage > 1 or width_in != width_out
            ):  # with a weight of its own, so that the file tells of it
                shapes[f"{block}.shortcut.0.weight"] = (width_out, width_in, 1, 1)
                shapes |= _norm(f"{block}.shortcut.1", width_out) if norm_behind else {}
            width_in = width_out
    last = {} if norm_behind else _norm("bn", width_in)
    return shapes | last | _linear("linear", width_in, classes)


def _convs(width_in: int, width: int, *, bottleneck: bool) -> list[tuple[int, ...]]:
    if bottleneck:
        return [(width, width_in, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
    return [(width, width_in, 3, 3), (width, width, 3, 3)]


def _vgg(plan: str, classes: int, shape: tuple[int, int, int]) -> Shapes:
    """With batch norm, one linear layer, and its places in the sequence as torchvision numbers them."""
    shapes: Shapes = {}
    width_in, place = shape[0], 0
    for count, width_out in zip(plan, (64, 128, 256, 512, 512), strict=True):
        for _ in range(int(count)):
            shapes |= {f"features.{place}.weight": (width_out, width_in, 3, 3), f"features.{place}.bias": (width_out,)}
            shapes |= _norm(f"features.{place + 1}", width_out)
            width_in, place = width_out, place + 3
        place += 1  # the pooling
    side = max(1, shape[1] >> len(plan))
    return shapes | _linear("classifier", width_in * side * side, classes)
