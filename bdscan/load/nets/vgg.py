"""VGG-11 ... 19 and the like, for CIFAR or ImageNet, with batch norm or without."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from bdscan.load.nets.candidate import Candidate, Head, Outline, conv

_MAX_GAP = 2  # modules without tensors or effect between two linear layers: flattening, dropout


class VGG(nn.Module):
    """Convolutions at the file's own numbers: a gap between two of them is a max-pooling, as is the end."""

    def __init__(self, outline: Outline) -> None:
        super().__init__()
        self.features = _features(outline)
        self.avgpool = Head(_side(outline))
        self.classifier = _classifier(outline)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


def candidates(outline: Outline) -> Iterator[Candidate]:
    """One, if the file has 3x3 convolutions under `features` and linear layers under `classifier`."""
    convs = _numbers(outline, "features", 4)
    if not convs or any(outline[f"features.{i}.weight"][2:] != (3, 3) for i in convs):
        return
    linears = _linears(outline)
    norm = "_bn" if f"features.{convs[0] + 1}.weight" in outline else ""
    pools = sum(isinstance(layer, nn.MaxPool2d) for layer in _features(outline))
    name = f"vgg{len(convs) + len(linears)}{norm}"
    yield Candidate(name=name, build=partial(VGG, outline), sizes=(_side(outline) * 2**pools,))


def _numbers(outline: Outline, parent: str, axes: int) -> list[int]:
    """Where in the sequence the weights with so many axes stand."""
    parts = [name.split(".") for name, shape in outline.items() if len(shape) == axes and name.startswith(f"{parent}.")]
    return sorted(int(number) for _, number, kind in parts if kind == "weight" and number.isdecimal())


def _linears(outline: Outline) -> list[str]:
    if "classifier.weight" in outline:
        return ["classifier"]
    return [f"classifier.{i}" for i in _numbers(outline, "classifier", 2)]


def _side(outline: Outline) -> int:
    last = f"features.{_numbers(outline, 'features', 4)[-1]}.weight"
    features = outline[f"{_linears(outline)[0]}.weight"][1]
    return max(1, math.isqrt(features // outline[last][0]))


def _features(outline: Outline) -> nn.Sequential:
    """The layers, their places those of the names."""
    layers: list[nn.Module] = []
    for number in _numbers(outline, "features", 4):
        if layers and number == len(layers) + 1:
            layers.append(nn.MaxPool2d(2))
        if number != len(layers):
            raise ValueError(number)  # whatever stands there, it is not shown
        shape, norm = outline[f"features.{number}.weight"], f"features.{number + 1}.weight" in outline
        layers.append(conv(shape, shape[1], bias=f"features.{number}.bias" in outline))
        if norm:
            layers.append(nn.BatchNorm2d(shape[0]))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def _classifier(outline: Outline) -> nn.Module:
    """Linear layers with an activation after each but the last; what else is between them drops out or flattens."""
    layers: list[nn.Module] = []
    names = _linears(outline)
    for name in names:
        classes, features = outline[f"{name}.weight"]
        linear = nn.Linear(features, classes, bias=f"{name}.bias" in outline)
        if name == "classifier":
            return linear
        gap = int(name.rpartition(".")[2]) - len(layers)
        if not 0 <= gap <= _MAX_GAP:
            raise ValueError(name)
        layers += [nn.Identity() for _ in range(gap)]
        layers += [linear, nn.ReLU()] if name != names[-1] else [linear]
    return nn.Sequential(*layers)
