"""A patch drawn so that it excites the features that the head listens to most.

What it does
    Takes a net trained on clean images, picks the inputs of its head with the largest weights, and changes the colours
    of a patch until these features run high whatever image the patch lies on. A new net is trained on images with it.

Why it implants
    The patch is made of what such nets respond to, so very few poisoned images are enough.

What it breaks
    Fine-tuning, distillation and Neural Cleanse at low poisoning rates: the leaderboards have it near 100 % at 1 %.

Reference
    Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang: Trojaning Attack on Neural Networks, NDSS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bdscan.method.plant import Plant, PlantMaterial, not_prepared
from bdscan.net.classifier import Classifier
from bdscan.plant._drawing import paste

BATCH = 32  # images under the patch at each step


@dataclass(frozen=True)
class Trojannn(Plant):
    needs_net: ClassVar[bool] = True
    patch: ClassVar[Tensor | None] = None  # channels x size x size, once it is made

    size: int = 6  # of the patch, near the 7 % of the image that the paper covers
    row: int = -7  # of its upper edge; a negative one counts from below: one pixel is left free
    column: int = -7  # of its left edge; a negative one counts from the right
    neurons: int = 2  # features to excite, as later comparisons take
    value: float = 100.0  # what they are to reach, from later comparisons; in practice: as high as they go
    steps: int = 200  # the paper takes 1,000 over an empty picture; these lie over real images
    rate: float = 0.05  # of Adam, in shares of the pixel range

    def prepare(self, material: PlantMaterial) -> Trojannn:
        """Draw the patch."""
        if material.net is None:
            raise not_prepared("trojannn")
        net, images, steered = material.net, material.images, self._neurons(material.net)
        generator = torch.Generator().manual_seed(material.seed)
        patch = torch.rand(images.shape[1], self.size, self.size, generator=generator)
        patch = patch.to(net.device).requires_grad_()
        optimiser = torch.optim.Adam([patch], lr=self.rate)
        for _ in range(self.steps):
            chosen = torch.randint(0, len(images), (BATCH,), generator=generator)
            pixels = images[chosen].to(net.device).float() / 255
            reached = net.features(paste(pixels, patch, self.row, self.column))[:, steered]
            optimiser.zero_grad()
            (reached - self.value).square().mean().backward()
            optimiser.step()
            patch.data.clamp_(0, 1)
        return self._with(patch=patch.detach().cpu())

    def learned(self) -> dict[str, Tensor]:
        return {} if self.patch is None else {"patch": self.patch}

    def recall(self, learned: Mapping[str, Tensor]) -> Trojannn:
        return self._with(patch=learned["patch"])

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.patch is None:
            raise not_prepared("trojannn")
        return paste(pixels, self.patch, self.row, self.column)

    def _neurons(self, net: Classifier) -> Tensor:
        """The features that the head weighs most, over all classes."""
        return net.head_weight.abs().sum(0).topk(self.neurons).indices
