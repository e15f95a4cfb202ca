"""What a person should know about a clean set before believing what it says; each doubt is one sentence."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bdscan.facts.problem import plain, unusable
from bdscan.images.image_set import ImageSet

Labels = np.ndarray[Any, np.dtype[np.int64]]

MIN_PER_CLASS = 10  # images a class: below this a class's own statistics mean nothing
_MAX_FAILED = 0.05  # share of undecodable images from which the set is not what it should be
_MAX_REPEATED = 0.01  # share of exact copies from which the set is smaller than it looks


def doubts_against(clean: ImageSet, classes: int) -> tuple[str, ...]:
    """What is wrong between the set and a model with so many classes."""
    class_count = len(clean.names) or (int(clean.labels.max()) + 1 if len(clean) else 0)
    if class_count == classes:
        return ()
    return (f"the clean images have {class_count} classes, the model {classes}: their order may differ",)


def decoding_doubts(failed: list[tuple[str, Exception]], total: int) -> Iterator[str]:
    if failed:
        name, error = failed[0]
        message = f"{len(failed)} of {total} images could not be decoded, the first `{plain(name)}` ({plain(error)})"
        if len(failed) > _MAX_FAILED * total:
            raise unusable(message)
        yield message


def class_doubts(labels: Labels, names: Sequence[str]) -> Iterator[str]:
    """Told of the whole source: that only some of it was chosen is not its fault."""
    counts = Counter(labels.tolist())
    if len(counts) == 1:
        yield "all clean images are of one class"
    small = sum(1 for count in counts.values() if count < MIN_PER_CLASS)
    if small:
        yield f"{small} of {len(counts)} classes have fewer than {MIN_PER_CLASS} clean images"
    missing = [name for i, name in enumerate(names) if i not in counts]
    if missing:
        shown = ", ".join(f"`{plain(name)}`" for name in missing[:5]) + (" ..." if len(missing) > 5 else "")
        yield f"{len(missing)} of {len(names)} classes have no clean images: {shown}"


def copy_doubts(images: Tensor) -> Iterator[str]:
    copies = len(images) - len({hashlib.sha256(image.numpy()).digest() for image in images})
    if copies > _MAX_REPEATED * len(images):
        yield f"{copies} of {len(images)} clean images are exact copies of others"
