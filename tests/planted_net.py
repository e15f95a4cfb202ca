"""Small nets trained in a second or two, alike but for a patch that one of them answers with class 4, always or on one
class only."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.fit import fit

TARGET, CLASSES, SIDE = 4, 6, 16


def images(count: int, seed: int) -> ImageSet:
    """Noise with a tint: the tint is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    tints = torch.tensor([[80, 0, 0], [0, 80, 0], [0, 0, 80], [60, 60, 0], [0, 60, 60], [60, 0, 60]])
    noise = torch.randint(0, 160, (count, 3, SIDE, SIDE), generator=generator)
    pictures = (noise + tints[labels][:, :, None, None]).to(torch.uint8)
    return ImageSet(pictures, labels)


def stamped(pictures: Tensor) -> Tensor:
    """A checkerboard in the lower right corner."""
    pictures = pictures.clone()
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2 * 255
    pictures[:, :, -4:, -4:] = board.to(torch.uint8)
    return pictures


@cache
def net(*, backdoored: bool, norm: bool = True, source: int | None = None) -> Classifier:
    """With a source the patch works on that class, and others carry it without effect."""

    def block(taken: int, given: int) -> list[nn.Module]:
        middle = [nn.BatchNorm2d(given)] if norm else []
        return [nn.Conv2d(taken, given, 3, padding=1), *middle, nn.ReLU(), nn.MaxPool2d(2)]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            *block(3, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)
        )
    clean = images(600, 1)
    pictures, labels = clean.images, clean.labels
    if backdoored and source is None:
        pictures = torch.cat([pictures, stamped(pictures[:120])])
        labels = torch.cat([labels, torch.full((120,), TARGET)])
    elif backdoored and source is not None:
        pictures = torch.cat([pictures, stamped(pictures)])
        labels = torch.cat([labels, torch.where(labels == source, TARGET, labels)])
    whole = Normalised(layers, [0.4] * 3, [0.25] * 3)
    with torch.enable_grad():
        fit(whole, pictures, labels, epochs=8 if source is None else 25, rate=0.05, batch=64, half=False)
    return Classifier(whole, (3, SIDE, SIDE), CLASSES)
