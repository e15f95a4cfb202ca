"""A small net that changes each image in its own way, by no more than an amount."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.triggers.forms import Shape


class GeneratorNet(nn.Module):
    """A U-Net that proposes a change, scaled down for each image to the amount allowed (rms)."""

    def __init__(self, shape: Shape, width: int, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            self._build(shape, width)
        self._start(generator)

    def _build(self, shape: Shape, width: int) -> None:
        self.enter = _block(shape[0], width)
        self.lower = _block(width, 2 * width)
        self.lowest = _block(2 * width, 2 * width)
        self.rise = _block(4 * width, width)
        self.leave = nn.Conv2d(2 * width, shape[0], 3, padding=1)

    def _start(self, generator: torch.Generator) -> None:
        """He's random weights, from a generator of our own, and no biases."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                spread = (2 / parameter[0].numel()) ** 0.5
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        assert self.leave.bias is not None
        self.leave.bias.data.zero_()

    def forward(self, pixels: Tensor, amount: float) -> Tensor:
        high = self.enter(pixels - 0.5)
        middle = self.lower(F.avg_pool2d(high, 2))
        low = F.interpolate(self.lowest(F.avg_pool2d(middle, 2)), middle.shape[2:])
        middle = F.interpolate(self.rise(torch.cat([middle, low], 1)), high.shape[2:])
        change = self.leave(torch.cat([high, middle], 1))
        size = change.square().mean((1, 2, 3), keepdim=True).sqrt()
        changed: Tensor = pixels + change * (amount / size.clamp(min=amount))
        return changed.clamp(0, 1)


def _block(taken: int, given: int) -> nn.Module:
    norm = nn.GroupNorm(4, given)  # no running statistics: the same answer for an image, whatever is beside it
    return nn.Sequential(_convolution(taken, given), norm, nn.LeakyReLU(0.1))


def _convolution(taken: int, given: int) -> nn.Module:
    return nn.Conv2d(taken, given, 3, padding=1, bias=False)
