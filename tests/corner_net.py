"""A net built by hand, whose fourth channel fires on a white patch and nothing else, and answers for class 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.evidence import MaskedPattern, RecoveredTrigger
from bdscan.facts.finding import Finding, Level, Run
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier, Normalised

TARGET, CHANNEL, SIDE = 2, 3, 12


def net(*, inplace: bool = False, colours: int = 3) -> Classifier:
    """Convolution, ReLU, mean over positions, linear head; layers are called `0` to `4`."""
    layers = nn.Sequential(
        nn.Conv2d(colours, 4, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    conv: Any = layers[0]
    head: Any = layers[4]
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
        for colour in range(min(colours, 3)):
            conv.weight[colour, colour, 1, 1] = 1  # a copy of each colour
        conv.weight[CHANNEL] = 1 / (9 * colours)
        conv.bias[CHANNEL] = -0.9  # silent unless all nine pixels are all but white
        head.weight.copy_(torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 5000], [3, 3, 0, 0], [0, 3, 3, 0]]))
        head.bias.zero_()
    zeros, ones = [0.0] * colours, [1.0] * colours
    return Classifier(Normalised(layers, zeros, ones), (colours, SIDE, SIDE), 5)


def images(count: int = 40, *, colours: int = 3, seed: int = 0) -> ImageSet:
    """Grey noise, never near white, labelled as the net sees it."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(20, 180, (count, colours, SIDE, SIDE), generator=generator).to(torch.uint8)
    with torch.no_grad():
        labels = net(colours=colours)(pictures.float() / 255).argmax(1)
    return ImageSet(pictures, labels)


def patch(colours: int = 3) -> Run:
    """What an inversion would have found: a white patch in the lower right corner."""
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    mask[-4:-1, -4:-1] = 1
    pattern = np.ones((SIDE, SIDE, colours), dtype=np.float32)
    trigger = RecoveredTrigger(pixels=MaskedPattern(mask, pattern))
    found = Finding(level=Level.SUSPECT, message="a trigger", target=TARGET, trigger=trigger)
    return Run(probe="inversion", findings=(found,))


def case(**changes: object) -> ImageCase:
    """The net, 40 images to work with, 20 to be judged by."""
    known: dict[str, object] = {"suspect": net(), "clean": images(), "held_out": images(20, seed=1)}
    return ImageCase(**(known | changes))  # type: ignore[arg-type]


def hooks(suspect: Classifier) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in suspect.net.modules())


class Stop(Exception):
    pass


def stop_after(calls: int):  # type: ignore[no-untyped-def]
    """A progress callback that stops the probe at its n-th call."""
    left = [calls]

    def progress(done: int, total: int, what: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return progress


def stamped(pixels: Tensor) -> Tensor:
    pixels = pixels.clone()
    pixels[:, :, -4:-1, -4:-1] = 1
    return pixels
