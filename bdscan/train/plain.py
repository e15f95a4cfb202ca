"""Plain training without any defence: the baseline, and a net where the data are trusted.

What it does
    Trains a new net with cross-entropy on all but a few of the images, which are kept back to measure it: SGD, one
    rise and fall of the learning rate, images shifted and, where the data allow it, mirrored.
Why it works
    It is the recipe with which small CIFAR nets reach their usual accuracy in few epochs.
When it fails
    It learns whatever the data hold, a backdoor first of all: one image in a hundred is enough for a patch.
Reference
    Smith, Topin: Super-Convergence, 2018 (arXiv 1708.07120), the one-cycle schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bdscan.model import Normalised
from bdscan.train import Course, Trained, Trainer
from bdscan.train._lessons import kept_back, learned, without


@dataclass(frozen=True)
class Plain(Trainer):
    """Settings and the training."""

    epochs: int = 30  # a small net on CIFAR-10 gains two points more with a hundred
    batch: int = 128  # the wide residual nets'; small data have smaller ones, and a lower rate
    rate: float = 0.1  # the highest one, with batches of 128
    decay: float = 5e-4  # the wide residual nets'

    def __call__(self, course: Course) -> tuple[Normalised, Trained]:
        everything = torch.ones(len(course.data), dtype=torch.bool)
        kept = kept_back(course.data, everything, course.seed)
        net, losses = learned(
            course, without(course.data, kept), epochs=self.epochs, batch=self.batch, rate=self.rate, decay=self.decay
        )
        return net, Trained(kept=kept, curves={"all images": losses})
