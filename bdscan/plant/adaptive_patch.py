"""Several patches of which training shows one at a time.

What it does
    Has four different patches, one in each corner; every training image carries one of them, half transparent.
    Twice as many cover images carry one and keep their labels. The finished net is shown several, fully opaque.

Why it implants
    A single faint patch predicts the target one time in three; several at once add up to certainty.

What it breaks
    All that separates poisoned from clean images in latent space, and Neural Cleanse: each patch alone is weak.

Reference
    Qi, Xie, Li, Mahloujifar, Mittal: Revisiting the Assumption of Latent Separability for Backdoor Defenses,
    ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bdscan.method.plant import Plant
from bdscan.plant._drawing import paste

CORNERS = ((1, 1), (-1, -1), (1, -1), (-1, 1))  # opposite ones first: two patches lie far apart


@dataclass(frozen=True)
class AdaptivePatch(Plant):
    share: ClassVar[float] = 0.003  # from the paper
    cover_share: ClassVar[float] = 0.006  # from the paper

    size: int = 4  # of each patch
    opacity: float = 0.5  # in training; the paper's lie between 0.2 and 0.5
    together: int = 2  # patches shown to the finished net, of four
    seed: int = 0  # of the patches' colours

    def __call__(self, pixels: Tensor) -> Tensor:
        for corner in range(self.together):
            pixels = self._paste(pixels, corner, 1.0)
        return pixels

    def for_training(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """One faint patch, another one on each image."""
        stamped = pixels.clone()
        which = torch.randint(0, len(CORNERS), (len(pixels),), generator=generator).to(pixels.device)
        for corner in range(len(CORNERS)):
            stamped[which == corner] = self._paste(pixels[which == corner], corner, self.opacity)
        return stamped

    def _paste(self, pixels: Tensor, corner: int, opacity: float) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * len(CORNERS) + corner)
        patch = torch.rand(pixels.shape[1], self.size, self.size, generator=generator).round()
        down, right = ((at if at > 0 else at - self.size) for at in CORNERS[corner])
        return paste(pixels, patch, down, right, opacity=opacity)
