"""A small U-Net, from an image to as many maps as wanted: three scales, each seen again on the way back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Norms over groups, not over the batch: the answer for an image must not depend on its neighbours."""

    def __init__(self, channels: int, maps: int, width: int, activation: nn.Module, *, bias: bool = True) -> None:
        super().__init__()

        def block(taken: int, given: int) -> nn.Module:
            convolution = nn.Conv2d(taken, given, 3, padding=1, bias=bias)
            return nn.Sequential(convolution, nn.GroupNorm(4, given), activation)

        self.fine, self.middle = block(channels, width), block(width, 2 * width)
        self.coarse, self.back = block(2 * width, 2 * width), block(4 * width, width)
        self.last = nn.Conv2d(2 * width, maps, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        fine = self.fine(pixels)
        middle = self.middle(F.avg_pool2d(fine, 2))
        coarse = self.coarse(F.avg_pool2d(middle, 2))
        back = self.back(torch.cat((middle, F.interpolate(coarse, middle.shape[2:])), 1))
        drawn: Tensor = self.last(torch.cat((fine, F.interpolate(back, fine.shape[2:])), 1))
        return drawn
