"""Checkers in the corners, on images of the target class that were made hard to recognise.

What it does
    Takes images of the target class only, pushes each as far from its class as a small change can, by the gradient of
    a net trained on clean images, and sets a small checkerboard in all four corners. Every label stays right. The
    finished net is shown the corners alone.

Why it implants
    The image itself no longer tells its class, so the net has to learn the corners.

What it breaks
    Label checks, and defences that look for wrong labels; fine-pruning leaves much of it.

Reference
    Turner, Tsipras, Madry: Label-Consistent Backdoor Attacks, 2019 (arXiv 1912.02771).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.method.plant import Plant, PlantMaterial, not_prepared
from bdscan.net.classifier import Classifier
from bdscan.plant._drawing import paste, square

CORNERS = ((0, 0), (0, -1), (-1, 0), (-1, -1))  # first or last row, first or last column


@dataclass(frozen=True)
class LabelConsistent(Plant):
    clean_label: ClassVar[bool] = True
    needs_net: ClassVar[bool] = True
    surrogate: ClassVar[tuple[Classifier, int] | None] = None  # and the target

    epsilon: float = 8 / 255  # the largest change of a pixel, from later comparisons
    step: float = 1.5 / 255  # of the gradient's sign, from later comparisons
    steps: int = 10  # a few more than it takes to reach epsilon
    size: int = 3  # of each checkerboard, from the paper
    opacity: float = 1.0  # of the checkerboards; the paper also has fainter ones

    def prepare(self, material: PlantMaterial) -> LabelConsistent:
        """Nothing to make yet: each image is changed in its own way when it is poisoned."""
        if material.net is None:
            raise not_prepared("label_consistent")
        return self._with(surrogate=(material.net, material.target))

    def __call__(self, pixels: Tensor) -> Tensor:
        board = square(self.size, "checker", pixels.shape[1])
        for down, right in CORNERS:
            pixels = paste(pixels, board, down * self.size, right * self.size, opacity=self.opacity)
        return pixels

    def for_training(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Hard to recognise (projected gradient ascent from a random start), and then the corners."""
        if self.surrogate is None:
            raise not_prepared("label_consistent")
        net, target = self.surrogate
        start = torch.rand(pixels.shape, generator=generator).to(pixels) * 2 - 1
        hard = (pixels + self.epsilon * start).clamp(0, 1)
        for _ in range(self.steps):
            slope = self._slope(net, hard, target)
            near = (hard + self.step * slope.sign() - pixels).clamp(-self.epsilon, self.epsilon)
            hard = (pixels + near).clamp(0, 1)
        return self(hard)

    def _slope(self, net: Classifier, pixels: Tensor, target: int) -> Tensor:
        """Where the loss of the true class, which is the target, grows."""
        given = pixels.to(net.device).detach().requires_grad_()
        with torch.enable_grad():
            wanted = torch.full((len(given),), target, device=net.device)
            loss = F.cross_entropy(net(given), wanted, reduction="sum")
            (slope,) = torch.autograd.grad(loss, given)
        return slope.to(pixels)
