"""A faint vertical ripple, on images of the target class only.

What it does
    Adds a sine wave along the columns, clipped to the range of a pixel. Only images of the target class are
    poisoned, so every label stays right.

Why it implants
    The ripple predicts the target class better than its own, varied content does.

What it breaks
    Label checks, Neural Cleanse, pixel inversion and ABS; fine-pruning and distillation leave it in place.

Reference
    Barni, Kallas, Tondi: A New Backdoor Attack in CNNs by Training Set Corruption without Label Poisoning, 2019
    (arXiv 1902.11237).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bdscan.method.plant import Plant


@dataclass(frozen=True)
class Sig(Plant):
    clean_label: ClassVar[bool] = True

    amplitude: float = 40 / 255  # the usual figure for small colour images
    frequency: int = 6  # waves across the image, from the paper

    def __call__(self, pixels: Tensor) -> Tensor:
        width = pixels.shape[3]
        at = torch.arange(width, device=pixels.device, dtype=pixels.dtype)
        wave = self.amplitude * torch.sin(2 * math.pi * at * self.frequency / width)
        return (pixels + wave).clamp(0, 1)
