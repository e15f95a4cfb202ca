"""How long, in what batches and with what augmentation a net is trained: follows from the net and its few images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from bdscan.case import Case
from bdscan.data import CleanSet, at_once
from bdscan.fit import Augment, Objective, crop_and_flip, fit
from bdscan.model import SuspectModel

BATCHES = 3  # an epoch has at least so many; smaller ones make for noisier steps and worse batch statistics
LARGEST, SMALLEST = 128, 16
MIRRORED = 0.05  # accuracy that a net may lose on mirrored images and still have been trained on such
CROP = 8  # a shift of at most side / 8: four pixels of 32, as CIFAR nets are trained


@dataclass(frozen=True)
class Regimen:
    """One course of training."""

    batch: int
    epochs: int
    flip: bool
    pad: int

    @property
    def augment(self) -> Augment:
        return partial(crop_and_flip, flip=self.flip, pad=self.pad)

    @property
    def said(self) -> str:
        moved = "shifted and mirrored" if self.flip else "shifted, not mirrored (the net tells left from right)"
        return f"{self.epochs} epochs in batches of {self.batch}, images {moved}"


def prescribe(suspect: SuspectModel, clean: CleanSet, epochs: int, steps: int) -> Regimen:
    """At least so many epochs and so many steps."""
    batch = max(SMALLEST, min(at_once(suspect.shape, LARGEST), len(clean) // BATCHES))
    each = max(1, len(clean) // batch)
    return Regimen(
        batch=batch,
        epochs=max(epochs, math.ceil(steps / each)),
        flip=_mirrors(suspect, clean),
        pad=max(1, min(suspect.shape[1:]) // CROP),
    )


def course(
    case: Case,
    net: nn.Module,
    regimen: Regimen,
    what: str,
    *,
    rate: float,
    decay: float = 5e-4,
    schedule: str = "one-cycle",
    objective: Objective | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
) -> None:
    """Train every weight of `net` on the case's images, and say how far it is."""
    assert case.clean is not None
    net.requires_grad_(True)
    fit(
        net,
        case.clean.images,
        case.clean.labels,
        epochs=regimen.epochs,
        batch=regimen.batch,
        augment=regimen.augment,
        rate=rate,
        decay=decay,
        schedule=schedule,
        seed=case.seed,
        objective=objective,
        after_step=after_step,
        progress=lambda done, total: case.progress(done, total, what),
    )
    net.requires_grad_(False)


def accuracy(model: SuspectModel, clean: CleanSet, *, mirror: bool = False) -> float:
    """The share of the images that the model gets right."""
    right = 0
    with torch.no_grad():
        for pixels, labels in clean.batches(250, model.device):
            logits = model(pixels.flip(3) if mirror else pixels)
            right += int((logits.argmax(1) == labels).sum())
    return right / len(clean)


def _mirrors(suspect: SuspectModel, clean: CleanSet) -> bool:
    """Whether the net knows mirrored images as well: signs and digits have a left and a right."""
    some = clean if len(clean) <= 500 else clean.split(500 / len(clean), 0)[0]
    plain = accuracy(suspect, some)
    return accuracy(suspect, some, mirror=True) >= plain - MIRRORED
