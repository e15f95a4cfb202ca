"""A small net that changes each image in its own way, by no more than an amount."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdscan.net.unet import UNet
from bdscan.triggers.forms import Shape


class GeneratorNet(nn.Module):
    """A U-Net that proposes a change, scaled down for each image to the amount allowed (rms)."""

    def __init__(self, shape: Shape, width: int, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            self.unet = UNet(shape[0], shape[0], width, nn.LeakyReLU(0.1), bias=False)
        for name, parameter in self.named_parameters():  # He's random weights, and no biases
            if parameter.dim() > 1:
                spread = (2 / parameter[0].numel()) ** 0.5
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            elif name == "unet.last.bias":
                parameter.data.zero_()

    def forward(self, pixels: Tensor, amount: float) -> Tensor:
        change = self.unet(pixels - 0.5)
        size = change.square().mean((1, 2, 3), keepdim=True).sqrt()
        changed: Tensor = pixels + change * (amount / size.clamp(min=amount))
        return changed.clamp(0, 1)
