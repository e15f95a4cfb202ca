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

from bdscan.method.trainer import TrainCase, Trainer, TrainResult
from bdscan.net.classifier import Normalised
from bdscan.train._stages import all_but, kept_back, train_new_net


@dataclass(frozen=True)
class Plain(Trainer):
    """Settings and the training."""

    epochs: int = 30  # a small net on CIFAR-10 gains two points more with a hundred
    batch: int = 128  # the wide residual nets'; small data have smaller ones, and a lower rate
    rate: float = 0.1  # the highest one, with batches of 128
    decay: float = 5e-4  # the wide residual nets'

    def __call__(self, case: TrainCase) -> tuple[Normalised, TrainResult]:
        everything = torch.ones(len(case.data), dtype=torch.bool)
        kept = kept_back(case.data, everything, case.seed)
        net, losses = train_new_net(
            case, all_but(case.data, kept), epochs=self.epochs, batch=self.batch, rate=self.rate, decay=self.decay
        )
        return net, TrainResult(kept=kept, curves={"all images": losses})
