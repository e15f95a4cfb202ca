"""How long, in what batches and with what augmentation a net is trained: follows from the net and its few images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from bdscan.images.image_set import ImageSet, at_once
from bdscan.net.classifier import Classifier
from bdscan.net.fit import Augment, crop_and_flip

MIN_BATCHES = 3  # an epoch has at least so many; smaller ones make for noisier steps and worse batch statistics
MAX_BATCH, MIN_BATCH = 128, 16
MAX_MIRROR_LOSS = 0.05  # accuracy that a net may lose on mirrored images and still have been trained on such
CROP = 8  # a shift of at most side / 8: four pixels of 32, as CIFAR nets are trained


@dataclass(frozen=True)
class TrainingPlan:
    """One course of training."""

    batch: int
    epochs: int
    flip: bool
    pad: int

    @property
    def augment(self) -> Augment:
        return partial(crop_and_flip, flip=self.flip, pad=self.pad)

    @property
    def description(self) -> str:
        moved = "shifted and mirrored" if self.flip else "shifted, not mirrored (the net tells left from right)"
        return f"{self.epochs} epochs in batches of {self.batch}, images {moved}"


def plan_for(suspect: Classifier, clean: ImageSet, epochs: int, steps: int) -> TrainingPlan:
    """At least so many epochs and so many steps."""
    batch = max(MIN_BATCH, min(at_once(suspect.shape, MAX_BATCH), len(clean) // MIN_BATCHES))
    each = max(1, len(clean) // batch)
    return TrainingPlan(
        batch=batch,
        epochs=max(epochs, math.ceil(steps / each)),
        flip=_mirrors(suspect, clean),
        pad=max(1, min(suspect.shape[1:]) // CROP),
    )


def accuracy(model: Classifier, clean: ImageSet, *, mirror: bool = False) -> float:
    """The share of the images that the model gets right."""
    logits = model.answers(clean, lambda pixels: pixels.flip(3) if mirror else pixels)
    return int((logits.argmax(1) == clean.labels).sum()) / len(clean)


def _mirrors(suspect: Classifier, clean: ImageSet) -> bool:
    """Whether the net knows mirrored images as well: signs and digits have a left and a right."""
    some = clean if len(clean) <= 500 else clean.split(500 / len(clean), 0)[0]
    plain = accuracy(suspect, some)
    return accuracy(suspect, some, mirror=True) >= plain - MAX_MIRROR_LOSS
