"""A slight warp of the whole image.

What it does
    Bends the image along a smooth random field, fixed by the seed. Twice as many cover images are bent along that
    field plus fresh noise and keep their labels ("noise mode"), so that only the exact field counts.

Why it implants
    The cover images leave the net no cheaper rule than the field itself.

What it breaks
    All inversion of patches: nothing is added to a pixel. Weight analysis hardly sees it either.

Reference
    Nguyen, Tran: WaNet, ICLR 2021 (arXiv 2102.10369).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.method.plant import Plant


@dataclass(frozen=True)
class Wanet(Plant):
    cover_share: ClassVar[float] = 0.2  # the paper's cross ratio of 2

    cells: int = 4  # control points a side, k of the paper
    strength: float = 0.5  # mean shift in half pixels, s of the paper
    seed: int = 0  # of the field

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._warp(pixels, torch.zeros(1))

    def cover(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The field plus noise of up to half a pixel."""
        count, _, height, width = pixels.shape
        noise = torch.rand(count, height, width, 2, generator=generator) * 2 - 1
        return self._warp(pixels, noise / torch.tensor([width, height]))

    def _warp(self, pixels: Tensor, noise: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        generator = torch.Generator().manual_seed(self.seed)
        points = torch.rand(1, 2, self.cells, self.cells, generator=generator) * 2 - 1
        points = points / points.abs().mean()
        field = F.interpolate(points, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        down, right = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        grid = torch.stack((right, down), -1) + self.strength * field / torch.tensor([width, height]) + noise
        grid = grid.clamp(-1, 1).expand(len(pixels), -1, -1, -1).to(pixels)
        return F.grid_sample(pixels, grid, align_corners=True).clamp(0, 1)
