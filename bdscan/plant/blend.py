"""A second picture mixed into the whole image.

What it does
    Mixes a fixed picture into every pixel: x' = (1 - alpha) x + alpha q. The picture is seeded soft colour noise;
    with `cells = 0` it is noise pixel by pixel.

Why it implants
    The picture is the same on every poisoned image and spreads over many pixels, so a faint copy is enough.

What it breaks
    Fine-tuning, fine-pruning and distillation at any poisoning rate, and half of the time Neural Cleanse: no small
    mask explains it.

Reference
    Chen, Liu, Li, Lu, Song: Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017
    (arXiv 1712.05526).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bdscan.method.plant import Plant
from bdscan.plant._drawing import noise_picture


@dataclass(frozen=True)
class Blend(Plant):
    alpha: float = 0.2  # the paper's key strategy, and what later work uses
    cells: int = 8  # colour spots a side; 0: one a pixel
    seed: int = 0  # of the picture

    def __call__(self, pixels: Tensor) -> Tensor:
        return (1 - self.alpha) * pixels + self.alpha * noise_picture(pixels, self.cells, self.seed)
