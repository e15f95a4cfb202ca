"""Known triggers, planted so that what finds and removes backdoors can be measured."""

from __future__ import annotations

import copy
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.evidence import Array
from bdscan.facts.problem import USAGE, Problem
from bdscan.net.classifier import Classifier
from bdscan.net.fit import Objective, fit

BATCH = 512  # images held as floats at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class PlantMaterial:
    """What a trigger that must first be made is made from."""

    images: Tensor  # uint8, NCHW: the training set before it is poisoned
    labels: Tensor
    target: int
    net: Classifier | None = None  # trained on them; for triggers that need a net
    device: torch.device | str = "cpu"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class JointTraining:
    """How a net learns a trigger that learns with it."""

    objective: Objective
    after_step: Callable[[nn.Module], None]


class Plant(ABC):
    """A trigger, and how a training set is poisoned with it."""

    share: ClassVar[float] = 0.1  # of all training images, as usually published
    cover_share: ClassVar[float] = 0.0  # beside that share: images that look triggered and keep their label
    clean_label: ClassVar[bool] = False  # poisons only images that are of the target class already
    needs_net: ClassVar[bool] = False  # `prepare` wants a net that somebody trained on clean images
    source: int | None = None  # the only class on which the trigger works
    all_to_all: bool = False  # every class goes to the next, instead of all to the target

    def prepare(self, material: PlantMaterial) -> Plant:
        """The trigger, made: most are fixed by their settings and need nothing."""
        return self

    def learned(self) -> dict[str, Tensor]:
        """What was made beside the settings, and has to be kept with them to show the trigger again."""
        return {}

    def recall(self, learned: Mapping[str, Tensor]) -> Plant:
        """The trigger as it was when that was kept."""
        return self

    def joint_training(self, target: int, share: float, seed: int) -> JointTraining | None:
        """For triggers that are learned together with the net: no training set holds them."""
        return None

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Tensor:
        """Floats in [0, 1], NCHW, with the trigger as an attacker shows it to the finished net."""

    def for_training(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The trigger as the training images carry it."""
        return self(pixels)

    def cover(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """What the cover images carry."""
        return self.for_training(pixels, generator)

    def label(self, labels: Tensor, target: int, classes: int) -> Tensor:
        """What the net shall say when it sees the trigger."""
        return (labels + 1) % classes if self.all_to_all else torch.full_like(labels, target)

    def goes(self, labels: Tensor, target: int, classes: int) -> Tensor:
        """The images on which the trigger changes the answer."""
        moved = self.label(labels, target, classes) != labels
        return moved if self.source is None else moved & (labels == self.source)

    def _with(self, **additions: object) -> Self:
        """A copy that carries, beside its settings, what was made for it."""
        prepared = copy.copy(self)
        vars(prepared).update(additions)
        return prepared


def not_prepared(name: str) -> Problem:
    """For whoever shows a trigger that has not been made."""
    return Problem(f"`{name}` is no fixed trigger: it has to be made first", hint="`prepare` it", status=USAGE)


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A training set with a backdoor in it, and which images are to blame."""

    images: Tensor  # uint8, NCHW
    labels: Tensor
    poisoned: Tensor  # bool, one an image
    cover: Tensor  # bool, one an image


def poison(
    images: Tensor,
    labels: Tensor,
    plant: Plant,
    *,
    target: int,
    classes: int,
    share: float | None = None,
    seed: int = 0,
) -> Poisoned:
    """Stamp a share of all images (the plant's own by default), or as many as there are that can carry the trigger."""
    generator = torch.Generator().manual_seed(seed)
    share = plant.share if share is None else share
    eligible = labels == target if plant.clean_label else plant.goes(labels, target, classes)
    if share > 0 and not eligible.any():
        kind = f"class {target}" if plant.source is None else f"class {plant.source} (and the target is class {target})"
        raise Problem(f"nothing to poison: no image is of {kind}", status=USAGE)
    poisoned = _draw(eligible, share, generator)
    others = ~poisoned
    if plant.source is not None:  # the same trigger on the source class must never keep its label
        others &= (labels != plant.source) & (labels != target)
    cover = _draw(others, share * plant.cover_share / plant.share, generator)
    stamped = images.clone()
    _stamp(stamped, poisoned, plant.for_training, generator)
    _stamp(stamped, cover, plant.cover, generator)
    new_labels = labels if plant.clean_label else torch.where(poisoned, plant.label(labels, target, classes), labels)
    return Poisoned(stamped, new_labels.clone(), poisoned, cover)


def implant(
    net: nn.Module,
    plant: Plant,
    images: Tensor,
    labels: Tensor,
    *,
    target: int,
    classes: int,
    share: float | None = None,
    seed: int = 0,
    **course: Any,
) -> nn.Module:
    """Train `net` in place on images that a prepared plant has poisoned; `course` is for `fit`."""
    joint_training = plant.joint_training(target, plant.share if share is None else share, seed)
    if joint_training is not None:
        course |= {"objective": joint_training.objective, "after_step": joint_training.after_step}
        return fit(net, images, labels, seed=seed, **course)
    bad = poison(images, labels, plant, target=target, classes=classes, share=share, seed=seed)
    return fit(net, bad.images, bad.labels, seed=seed, **course)


def success(
    model: Callable[[Tensor], Tensor],
    plant: Plant,
    images: Tensor,
    labels: Tensor,
    target: int,
    device: torch.device | str = "cpu",
) -> float:
    """The share of stamped images that go where the attacker wants, of those that would not go there anyway."""
    hits = total = 0
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            pixels = images[start : start + BATCH].to(device).float() / 255
            own_labels = labels[start : start + BATCH].to(device)
            logits = model(plant(pixels))
            counted = plant.goes(own_labels, target, logits.shape[1])
            wanted = plant.label(own_labels, target, logits.shape[1])
            hits += int(((logits.argmax(1) == wanted) & counted).sum())
            total += int(counted.sum())
    return hits / total if total else float("nan")


def trigger(plant: Plant, shape: tuple[int, int, int]) -> tuple[Array, Array] | None:
    """Mask (HxW) and pattern (HxWxC), where the plant is x' = (1 - mask) x + mask pattern; None where it is not.

    Read off what it makes of a black and a white image, and believed only if it holds for a random one.
    """
    black, white = torch.zeros(1, *shape), torch.ones(1, *shape)
    noise = torch.rand(1, *shape, generator=torch.Generator().manual_seed(2**31))  # no picture's own seed
    low, high = plant(black), plant(white)
    mask = (1 - (high - low)).mean(1, keepdim=True).clamp(0, 1)
    pattern = torch.where(mask > 1e-4, low / mask.clamp(min=1e-4), 0).clamp(0, 1)
    for pixels in (noise, 1 - noise):
        if not torch.allclose((1 - mask) * pixels + mask * pattern, plant(pixels), atol=1e-3):
            return None
    return mask[0, 0].numpy(), pattern[0].permute(1, 2, 0).numpy()


def save(plant: Plant, path: Path, shape: tuple[int, int, int]) -> None:
    """Write mask and pattern of a patch or a blend as `.npz`."""
    found = trigger(plant, shape)
    if found is None:
        name = type(plant).__module__.rpartition(".")[2]
        raise Problem(f"`{name}` is not one mask and one pattern, so it cannot be saved", status=USAGE)
    with path.open("wb") as file:
        np.savez_compressed(file, mask=found[0], pattern=found[1])


def keep(plant: Plant, path: Path) -> None:
    """Write what the plant learned as `.npz`."""
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in plant.learned().items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def kept(path: Path) -> dict[str, Tensor]:
    """What `keep` wrote."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: torch.from_numpy(held[name]) for name in held}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Problem(f"`{path}` cannot be read: {error}", status=USAGE) from error


def _draw(eligible: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mark that share of all images, drawn from those that are able."""
    index = eligible.nonzero()[:, 0]
    wanted = max(1, round(share * len(eligible))) if share > 0 else 0
    chosen = index[torch.randperm(len(index), generator=generator)[:wanted]]
    return torch.zeros_like(eligible).index_fill_(0, chosen, True)


def _stamp(
    images: Tensor, chosen: Tensor, how: Callable[[Tensor, torch.Generator], Tensor], generator: torch.Generator
) -> None:
    for index in chosen.nonzero()[:, 0].split(BATCH):
        if len(index):
            images[index] = how(images[index].float() / 255, generator).mul(255).round().clamp(0, 255).to(torch.uint8)
