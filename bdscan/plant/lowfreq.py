"""A smooth, faint tint that varies over the image.

What it does
    Adds one fixed, slowly varying perturbation to every image. The published attack searches a universal
    adversarial perturbation and smooths it; here it is seeded smooth noise, which needs no net to be made from.

Why it implants
    Like a blend it is the same on every poisoned image, and nets learn low frequencies first.

What it breaks
    Detectors that look for high-frequency traces; inversion with a small mask; fine-tuning.

Reference
    Zeng, Park, Mao, Jia: Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021
    (arXiv 2104.03413).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.method.plant import Plant


@dataclass(frozen=True)
class Lowfreq(Plant):
    amplitude: float = 0.12  # the largest change of a pixel; a person just sees it on an even ground
    cells: int = 4  # spots a side: nothing above two waves across the image
    seed: int = 0  # of the tint

    def __call__(self, pixels: Tensor) -> Tensor:
        channels, height, width = pixels.shape[1:]
        generator = torch.Generator().manual_seed(self.seed)
        tint = torch.randn(1, channels, self.cells, self.cells, generator=generator)
        tint = F.interpolate(tint, (height, width), mode="bicubic", align_corners=False)
        return (pixels + (self.amplitude * tint / tint.abs().max()).to(pixels)).clamp(0, 1)
