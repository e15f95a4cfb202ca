"""Clean images: labelled, vouched for, and few."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# In the images that pass a net at once: a thousand of CIFAR's, or twenty of 224 x 224, whose gradients in a ResNet-18
# take a gigabyte and a half.
MAX_POSITIONS = 1 << 20


def at_once(shape: Sequence[int], count: int) -> int:
    """So many images, or as many of this shape (..., height, width) as memory is sure to hold."""
    return max(1, min(count, MAX_POSITIONS // (shape[-2] * shape[-1])))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A few labelled images known to be free of triggers: uint8, NCHW, at the size the net takes."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()  # class names, in the order of the labels
    doubts: tuple[str, ...] = ()  # what is wrong with the set; each caps the verdict
    files: tuple[str, ...] = ()  # where each image came from

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixels(self) -> Tensor:
        """All images as floats in [0, 1]; for large sets use `batches`."""
        return self.images.float() / 255

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels in [0, 1] and labels, in order; fewer at a time where the images are large."""
        size = at_once(self.images.shape, size)
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            yield self.images[chosen].to(device).float().div_(255), self.labels[chosen].to(device)

    def take(self, index: Tensor) -> ImageSet:
        files = tuple(self.files[i] for i in index.tolist()) if self.files else ()
        return replace(self, images=self.images[index], labels=self.labels[index], files=files)

    def without(self, label: int, most: int | None = None) -> ImageSet:
        """The images of other classes, or the first of them."""
        return self.take((self.labels != label).nonzero()[:most, 0])

    def sample(self, most: int, seed: int) -> ImageSet:
        """At most so many, drawn without favour, in their order."""
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:most]
        return self.take(drawn.sort().values)

    def save(self, path: Path) -> None:
        """As an `.npz` that `--clean` takes."""
        images = self.images.permute(0, 2, 3, 1).numpy()
        np.savez(path, images=images, labels=self.labels.numpy(), names=np.array(self.names))

    def digest(self) -> str:
        """SHA-256 over the shape, the pixels and the labels."""
        total = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels.long()):
            total.update(tensor.cpu().contiguous().numpy().data)
        return total.hexdigest()

    def split(self, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """To work with / to be judged by: drawn class by class, so that both hold every class."""
        generator = torch.Generator().manual_seed(seed)
        first, second = [], []
        for label in self.labels.unique().tolist():
            members = (self.labels == label).nonzero()[:, 0]
            members = members[torch.randperm(len(members), generator=generator)]
            cut = max(1, round(len(members) * share)) if len(members) > 1 else len(members)
            first.append(members[:cut])
            second.append(members[cut:])
        return self.take(torch.cat(first).sort().values), self.take(torch.cat(second).sort().values)
