"""The data that a training begins with: read once, asked whether anything can be learned from them, and told apart."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.images.classes import by_model
from bdscan.images.image_set import ImageSet
from bdscan.images.source import Source, open_images
from bdscan.load.arch.fresh import fresh
from bdscan.load.assembly import class_names
from bdscan.load.assembly.normalize import Norm, named_norms, parse
from bdscan.net.classifier import Normalised
from bdscan.net.device import device_of
from bdscan.net.fit import Augment, crop_and_flip
from bdscan.net.training_plan import CROP
from bdscan.train._mirror import mirrors

if TYPE_CHECKING:
    from bdscan.pipeline.options import TrainOptions

MIN_IMAGES = 100  # images: with fewer there is nothing to learn and nothing to keep back
MAX_EMPTY = 0.5  # share of classes without an image from which the labels are wrong rather than the data thin
NORM_TOLERANCE = 0.06  # of the data's own figures: as near must a normalisation with a name be to stand for them
AUGMENTS = ("auto", "none", "shift", "flip")
_SAMPLED = 2000  # images whose pixels are measured
_UNVOUCHED = "checked by images of these data that were kept back, for which nobody vouches either"


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingData:
    """Everything that follows from the data, before the first step."""

    spec: str
    images: ImageSet  # where `doubts` are those of reading: nobody says that they are clean
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    norm: Norm
    arch: str
    device: torch.device
    augment: Augment | None
    augmentation: str  # in words
    notes: tuple[str, ...]
    vouched: ImageSet | None  # images that somebody does vouch for, to check the result by
    fresh: Callable[[], Normalised]

    @property
    def classes(self) -> int:
        return len(self.names)


def gather(spec: str, options: TrainOptions, check: Callable[[nn.Module], None]) -> TrainingData:
    """Raises `Problem` for all that can be known before the training; `check` is shown the net before decoding."""
    if options.augment not in AUGMENTS:
        raise Problem(f"`--augment {options.augment}` is none of {', '.join(AUGMENTS)}", status=USAGE)
    source = open_images(spec, training=True)
    device = device_of(options.device)
    shape, names = _shape(source, options.side), _names(source, options)
    stated = None if options.normalize == "auto" else parse(options.normalize, shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        net = fresh(options.arch, len(names), shape)
    check(net)
    _memory(source.count, shape)
    vouched = open_images(options.clean).load(shape, names) if options.clean is not None else None
    images = source.everything(shape, names)
    if bool((images.images == images.images[:1]).all()):
        raise Problem("all images are the same picture: there is nothing to tell apart")
    norm = stated or _measured(images.images)
    flip = options.augment == "flip" or (options.augment == "auto" and mirrors(images, len(names)))
    return TrainingData(
        spec=spec,
        images=images,
        names=names,
        shape=shape,
        norm=norm,
        arch=options.arch,
        device=device,
        augment=None if options.augment == "none" else partial(crop_and_flip, flip=flip, pad=max(1, shape[1] // CROP)),
        augmentation=_augmentation(options.augment, flip),
        notes=(*_empty(images, names), *([] if vouched is not None else [_UNVOUCHED])),
        vouched=vouched,
        # Each time with the random weights that the net was built with.
        fresh=lambda: Normalised(copy.deepcopy(net), norm.mean, norm.std).to(device),
    )


def _shape(source: Source, side: int | None) -> tuple[int, int, int]:
    size = source.size
    if side is not None:
        return (size[0] if size else 3, side, side)
    if size is None:
        message = f"the images in `{source.spec}` differ in size"
        raise Problem(message, hint="say how large the net's input is: `--size 224`", status=USAGE)
    return size


def _names(source: Source, options: TrainOptions) -> tuple[str, ...]:
    """All classes in the order of their labels; at least two of them with images."""
    given = class_names.read(options.classes) if options.classes is not None else None
    places, names = by_model(source.names, given, source.spec)
    held = {places[i] for i in set(source.index)}
    if len(held) < 2:
        only = names[next(iter(held))] if held else "none"
        message = f"all images in `{source.spec}` are of one class, `{only}`: there is nothing to tell apart"
        raise Problem(message, status=COULD_NOT_TELL)
    if given is None and all(name.isdecimal() for name in names) and len(held) < MAX_EMPTY * len(names):
        message = f"the labels in `{source.spec}` reach up to {max(held)}, but only {len(held)} classes have images"
        raise Problem(message, hint="number the classes from 0 on, or name them with `--classes FILE`", status=USAGE)
    if source.count < MIN_IMAGES:
        raise Problem(f"{source.count} images are too few to train on", hint=f"give {MIN_IMAGES} or more")
    return names


def _empty(images: ImageSet, names: tuple[str, ...]) -> tuple[str, ...]:
    counts = torch.bincount(images.labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if not empty:
        return images.doubts
    shown = ", ".join(f"`{name}`" for name in empty[:5]) + (" ..." if len(empty) > 5 else "")
    return (*images.doubts, f"{len(empty)} of {len(names)} classes have no images and cannot be learned: {shown}")


def _memory(count: int, shape: tuple[int, int, int]) -> None:
    """They are held decoded; what does not fit is told before hours are spent on swapping."""
    need = count * int(np.prod(shape))
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return
    if need > there / 2:
        message = f"{count:,} images of {shape[2]}x{shape[1]} take {need >> 30} GB of {there >> 30} GB of memory"
        raise Problem(message, hint="make them smaller with `--size`, or give fewer", status=USAGE)


def _measured(images: Tensor) -> Norm:
    """The data's own mean and deviation; a known normalisation that is near stands for them, since tools know it."""
    some = images[torch.linspace(0, len(images) - 1, min(len(images), _SAMPLED)).long()].float() / 255
    mean, std = some.mean((0, 2, 3)), some.std((0, 2, 3)).clamp(min=0.01)
    apart = {
        norm: float((torch.tensor([norm.mean, norm.std]) - torch.stack([mean, std])).abs().max())
        for norm in named_norms(images.shape[1]).values()
    }
    nearest = min(apart, key=lambda norm: apart[norm])
    if apart[nearest] <= NORM_TOLERANCE:
        return nearest
    figures = [",".join(f"{value:.3f}" for value in values.tolist()) for values in (mean, std)]
    return parse("/".join(figures), images.shape[1])


def _augmentation(asked: str, flip: bool) -> str:
    if asked == "none":
        return "images as they are"
    if flip:
        return "images shifted and mirrored"
    return "images shifted, not mirrored" + (": some classes differ from their mirror image" if asked == "auto" else "")
