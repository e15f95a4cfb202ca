"""A small net that draws on an image what it has seen in it: from pixels to as many maps as wanted, in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _block(taken: int, given: int) -> nn.Module:
    # Norms over groups, not over the batch: an image's trigger must not depend on its neighbours.
    return nn.Sequential(nn.Conv2d(taken, given, 3, padding=1), nn.GroupNorm(4, given), nn.ReLU())


class Painter(nn.Module):
    """Three scales, each seen again on the way back."""

    def __init__(self, channels: int, maps: int, width: int) -> None:
        super().__init__()
        self.fine, self.middle = _block(channels, width), _block(width, 2 * width)
        self.coarse, self.back = _block(2 * width, 2 * width), _block(4 * width, width)
        self.last = nn.Conv2d(2 * width, maps, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        fine = self.fine(pixels * 2 - 1)
        middle = self.middle(F.avg_pool2d(fine, 2))
        coarse = self.coarse(F.avg_pool2d(middle, 2))
        back = self.back(torch.cat((middle, F.interpolate(coarse, middle.shape[2:])), 1))
        drawn: Tensor = self.last(torch.cat((fine, F.interpolate(back, fine.shape[2:])), 1))
        return torch.tanh(drawn) / 2 + 0.5
