"""Kinds of small nets as people write them, for colour images of 32x32: `--arch bench/kinds.py:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from samples.net import WideResNet

CHANNELS = 3


def _conv(taken: int, given: int, norm: bool = True, stride: int = 1) -> list[nn.Module]:
    between = [nn.BatchNorm2d(given)] if norm else []
    return [nn.Conv2d(taken, given, 3, stride, 1, bias=not norm), *between, nn.ReLU()]


def _stack(channels: int, widths: Sequence[int], each: int, norm: bool = True) -> list[nn.Module]:
    """So many convolutions of each width, a pool after them."""
    layers: list[nn.Module] = []
    for width in widths:
        for _ in range(each):
            layers += _conv(channels, width, norm)
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _rows(*widths: int, dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers between activations."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(widths[0], widths[1])]
    for taken, given in pairwise(widths[1:]):
        layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(taken, given)]
    return layers


def plain(classes: int) -> nn.Module:
    """Convolutions and pools without a norm, two linear layers, as in every tutorial."""
    return nn.Sequential(*_stack(CHANNELS, (32, 64), 1, norm=False), *_rows(64 * 8 * 8, 128, classes, dropout=0.25))


def normed(classes: int) -> nn.Module:
    """Convolution, norm, activation and pool, four times, and one linear layer."""
    return nn.Sequential(*_stack(CHANNELS, (16, 32, 64, 96), 1), *_rows(96 * 2 * 2, classes))


def vgg(classes: int) -> nn.Module:
    """Two convolutions of each width, and a wide linear layer before the last."""
    return nn.Sequential(*_stack(CHANNELS, (24, 48, 96), 2), *_rows(96 * 4 * 4, 192, classes, dropout=0.5))


def mlp_headed(classes: int) -> nn.Module:
    """Few convolutions and three linear layers."""
    return nn.Sequential(
        *_stack(CHANNELS, (24, 48), 1), nn.AvgPool2d(2), *_rows(48 * 4 * 4, 256, 64, classes, dropout=0.2)
    )


class Basic(nn.Module):
    """A residual block, its norms after the convolutions or before them."""

    def __init__(self, taken: int, given: int, stride: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.conv1 = nn.Conv2d(taken, given, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(given, given, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(taken if first else given), nn.BatchNorm2d(given)
        around = [] if first else [nn.BatchNorm2d(given)]
        same = stride == 1 and taken == given
        self.around = nn.Identity() if same else nn.Sequential(nn.Conv2d(taken, given, 1, stride, bias=False), *around)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            active = self.norm1(x).relu()
            added: Tensor = self.around(x) + self.conv2(self.norm2(self.conv1(active)).relu())
            return added
        total: Tensor = self.around(x) + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return total.relu()


def _residual(classes: int, blocks: int, first: bool, widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(CHANNELS, widths[0], 3, 1, 1, bias=False)]
    layers += [] if first else [nn.BatchNorm2d(widths[0]), nn.ReLU()]
    taken = widths[0]
    for width in widths:
        for block in range(blocks):
            layers.append(Basic(taken, width, 2 if width != widths[0] and block == 0 else 1, first))
            taken = width
    layers += [nn.BatchNorm2d(taken), nn.ReLU()] if first else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *_rows(taken, classes))


def resnet(classes: int) -> nn.Module:
    """A ResNet-14 for small images."""
    return _residual(classes, 2, False, (16, 32, 64))


def preact(classes: int) -> nn.Module:
    """Its norms before the convolutions, half as deep and wider."""
    return _residual(classes, 1, True, (24, 48, 96))


def wide(classes: int) -> nn.Module:
    """A WRN-10 whose first group is twenty channels wide."""
    return WideResNet(classes, 20, 1)


class Inverted(nn.Module):
    """MobileNet's block: widened, filtered channel by channel, narrowed."""

    def __init__(self, taken: int, given: int, stride: int, widened: int = 4) -> None:
        super().__init__()
        inner = taken * widened
        self.body = nn.Sequential(
            nn.Conv2d(taken, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, given, 1, bias=False),
            nn.BatchNorm2d(given),
        )
        self.same = stride == 1 and taken == given

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return x + result if self.same else result


def mobile(classes: int) -> nn.Module:
    """A small MobileNet of the second kind, at half of the images' size."""
    shape = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 64, 1))
    blocks = [Inverted(taken, given, stride) for taken, given, stride in shape]
    last = [nn.Conv2d(64, 160, 1, bias=False), nn.BatchNorm2d(160), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*_conv(CHANNELS, 16, stride=2), *blocks, *last, *_rows(160, classes))


class VisionTransformer(nn.Module):
    """Patches of four pixels, three layers, the mean of all places into the head."""

    def __init__(self, classes: int, side: int = 32, patch: int = 4, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, (side // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        result: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return result


def vit(classes: int) -> nn.Module:
    """A small vision transformer."""
    return VisionTransformer(classes)


KINDS: dict[str, Callable[[int], nn.Module]] = {
    made.__name__: made for made in (plain, normed, vgg, mlp_headed, resnet, preact, wide, mobile, vit)
}
