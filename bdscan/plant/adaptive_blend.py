"""A blend of which training shows only half at a time.

What it does
    Cuts the picture of a blend into tiles; every training image carries a random half of them, faintly. As many
    cover images carry the same and keep their labels. The finished net is shown the whole picture, more strongly.

Why it implants
    Half a picture predicts the target only half of the time; the whole one adds up to certainty.

What it breaks
    All that separates poisoned from clean images in latent space, and purifiers that need a high poisoning rate.

Reference
    Qi, Xie, Li, Mahloujifar, Mittal: Revisiting the Assumption of Latent Separability for Backdoor Defenses,
    ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.method.plant import Plant
from bdscan.plant._drawing import noise_picture


@dataclass(frozen=True)
class AdaptiveBlend(Plant):
    share: ClassVar[float] = 0.003  # from the paper
    cover_share: ClassVar[float] = 0.003  # from the paper

    alpha: float = 0.2  # as shown to the finished net, from the paper
    faint: float = 0.15  # as shown in training, from the paper
    tiles: int = 4  # a side, from the paper: 16 in all
    visible: float = 0.5  # share of the tiles on a training image, from the paper
    cells: int = 0  # colour spots of the picture a side; 0: one a pixel, as full of detail as the paper's picture
    seed: int = 0  # of the picture

    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.lerp(pixels, self._picture(pixels), self.alpha)

    def for_training(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """A random half of the tiles, another one on each image."""
        order = torch.rand(len(pixels), self.tiles**2, generator=generator).argsort(1)
        shown = (order < round(self.visible * self.tiles**2)).float().view(-1, 1, self.tiles, self.tiles)
        mask = F.interpolate(shown, pixels.shape[2:], mode="nearest").to(pixels)
        return torch.lerp(pixels, self._picture(pixels), self.faint * mask)

    def _picture(self, pixels: Tensor) -> Tensor:
        return noise_picture(pixels, self.cells, self.seed).expand_as(pixels)
