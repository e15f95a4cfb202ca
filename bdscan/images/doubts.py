"""What a person should know about a clean set before believing what it says; each doubt is one sentence."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet

Labels = np.ndarray[Any, np.dtype[np.int64]]

FEW = 10  # images a class: below this a class's own statistics mean nothing
_FAILED = 0.05  # share of undecodable images from which the set is not what it should be
_REPEATED = 0.01  # share of exact copies from which the set is smaller than it looks


def doubts_against(clean: ImageSet, classes: int) -> tuple[str, ...]:
    """What is wrong between the set and a model with so many classes."""
    held = len(clean.names) or (int(clean.labels.max()) + 1 if len(clean) else 0)
    if held == classes:
        return ()
    return (f"the clean images have {held} classes, the model {classes}: their order may differ",)


def of_failures(failed: list[tuple[str, Exception]], total: int) -> Iterator[str]:
    if failed:
        name, error = failed[0]
        message = f"{len(failed)} of {total} images could not be decoded, the first `{name}` ({error})"
        if len(failed) > _FAILED * total:
            raise Problem(message)
        yield message


def of_classes(labels: Labels, names: Sequence[str]) -> Iterator[str]:
    """Told of the whole source: that only some of it was chosen is not its fault."""
    counts = Counter(labels.tolist())
    if len(counts) == 1:
        yield "all clean images are of one class"
    few = sum(1 for count in counts.values() if count < FEW)
    if few:
        yield f"{few} of {len(counts)} classes have fewer than {FEW} clean images"
    missing = [name for i, name in enumerate(names) if i not in counts]
    if missing:
        shown = ", ".join(f"`{name}`" for name in missing[:5]) + (" ..." if len(missing) > 5 else "")
        yield f"{len(missing)} of {len(names)} classes have no clean images: {shown}"


def of_pixels(images: Tensor) -> Iterator[str]:
    copies = len(images) - len({hashlib.sha256(image.numpy()).digest() for image in images})
    if copies > _REPEATED * len(images):
        yield f"{copies} of {len(images)} clean images are exact copies of others"
