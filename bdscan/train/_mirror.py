"""Whether the data look the same in a mirror: photographs do, signs and digits do not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.images.image_set import ImageSet

COPY_SIDE = 8  # of the small copies: shapes survive, and 192 figures an image are solved for at once
MAX_IMAGES = 4000  # images asked
RIDGE = 0.1  # of the mean square of a figure, on the diagonal
MIN_HITS_SHARE = 0.5  # of a class's hits must survive the mirror: photographs keep nearly all, a turn to the left none
MIN_HITS = 5  # hits that a class must have before their loss means anything


def mirrors(data: ImageSet, classes: int) -> bool:
    """Asked of a linear classifier on small copies, class by class.

    One class may lose its hits all the same: that of a patch in a corner, which no mirrored image bears there.
    """
    some = data if len(data) <= MAX_IMAGES else data.split(MAX_IMAGES / len(data), 0)[0]
    fitted, asked = some.split(0.5, 0)
    if not len(asked):
        return False
    weight = _solved(_small(fitted.images), F.one_hot(fitted.labels, classes).float())
    plain = _hits(_small(asked.images) @ weight, asked.labels, classes)
    mirrored = _hits(_small(asked.images.flip(3)) @ weight, asked.labels, classes)
    telling = plain >= MIN_HITS
    return int(telling.sum()) > 1 and int((mirrored[telling] < MIN_HITS_SHARE * plain[telling]).sum()) <= 1


def _small(images: Tensor) -> Tensor:
    """Centred, with a constant at the end."""
    parts = [
        F.interpolate(some.float() / 255, (COPY_SIDE, COPY_SIDE), mode="area").flatten(1) for some in images.split(500)
    ]
    flat = torch.cat(parts) - 0.5
    return torch.cat([flat, torch.ones(len(flat), 1)], 1)


def _solved(figures: Tensor, wanted: Tensor) -> Tensor:
    """Ridge regression."""
    square = figures.T @ figures
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square))
    solved: Tensor = torch.linalg.solve(square, figures.T @ wanted)
    return solved


def _hits(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many of each class are told right."""
    return torch.bincount(labels[answers.argmax(1) == labels], minlength=classes)
