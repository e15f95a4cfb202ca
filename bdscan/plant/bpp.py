"""Colours squeezed to a few levels.

What it does
    Rounds every channel to `levels` values, if wanted with Floyd-Steinberg dithering. Cover images carry the
    rounding error of another image and keep their labels.

Why it implants
    The cover images teach the net that a foreign rounding error means nothing, its own everything.

What it breaks
    Inversion in pixel space: the change is different on every image, and no fixed pattern has its effect.

Reference
    Wang, Zhai, Ma: BppAttack, CVPR 2022 (arXiv 2205.13383).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.method.plant import Plant

# Where Floyd and Steinberg send the rounding error: rows down, columns right, share.
DIFFUSION = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))


@dataclass(frozen=True)
class Bpp(Plant):
    cover_share: ClassVar[float] = 0.2  # the paper's negative rate

    levels: int = 8  # a channel, from the paper's code
    dither: bool = False  # spread the rounding error to the neighbours

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._dithered(pixels) if self.dither else self._rounded(pixels)

    def cover(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Each image plus another one's rounding error."""
        others = pixels[torch.randperm(len(pixels), generator=generator)]
        return (pixels + self(others) - others).clamp(0, 1)

    def _rounded(self, pixels: Tensor) -> Tensor:
        return (pixels * (self.levels - 1)).round() / (self.levels - 1)

    def _dithered(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        work = F.pad(pixels, (1, 1, 0, 1))  # room for what is sent over the edge
        for i in range(height):
            for j in range(1, width + 1):
                old = work[:, :, i, j].clone()
                new = self._rounded(old).clamp(0, 1)
                work[:, :, i, j] = new
                for down, right, share in DIFFUSION:
                    work[:, :, i + down, j + right] += (old - new) * share
        return work[:, :, :height, 1:-1].clamp(0, 1)
