"""Universal triggers of several forms: one set of parameters an arm, all arms stamped in one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import AddedChange, Array, Displacement, MaskedPattern, Pictures, TriggerPixels

PICTURED = 12  # images in a finding

Shape = tuple[int, int, int]
Stamp = Callable[[Tensor], Tensor]


def displaced(pixels: Tensor, flow: Tensor) -> Tensor:
    """Images read at places moved by `flow` (images x height x width x 2, shares of the side)."""
    height, width = pixels.shape[2:]
    rows = torch.linspace(-1, 1, height, device=pixels.device)
    columns = torch.linspace(-1, 1, width, device=pixels.device)
    here = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    there = (here + 2 * flow).clamp(-1, 1).expand(len(pixels), -1, -1, -1)
    return F.grid_sample(pixels, there, align_corners=True)


def stamper(trigger: TriggerPixels) -> Stamp:
    """The trigger as a function of pixels."""

    def tensor(array: Array, like: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(like)

    match trigger:
        case MaskedPattern(mask, pattern):
            return lambda x: x + tensor(mask, x) * (tensor(pattern, x).permute(2, 0, 1) - x)
        case AddedChange(change):
            return lambda x: (x + tensor(change, x).permute(2, 0, 1)).clamp(0, 1)
        case Displacement(flow):
            return lambda x: displaced(x, tensor(flow, x)[None])


def stamped(images: Tensor, stamp: Stamp) -> Tensor:
    """uint8 images with the trigger on, rounded as a file would have them."""
    worn: Tensor = (stamp(images.float() / 255) * 255).round().clamp(0, 255).to(torch.uint8)
    return worn


def pictures(images: Tensor, stamp: Stamp) -> Pictures:
    """Some images beside themselves with the trigger on, as a report shows them."""
    some = images[:PICTURED]
    return Pictures(images=_numpy(some.permute(0, 2, 3, 1)), stamped=_numpy(stamped(some, stamp).permute(0, 2, 3, 1)))


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()


class Form(ABC):
    """A family of triggers: how it changes pixels, and how much room it takes.

    `size` has a unit of its own in each form, chosen so that it does not depend on the resolution.
    """

    typical: ClassVar[float]  # the size that turns most images of a clean CIFAR net: only sets the scale of the penalty
    rate: ClassVar[float]  # Adam's, in the units of the parameters
    unit: ClassVar[str]

    def __init__(self, arms: int, shape: Shape, generator: torch.Generator, device: torch.device) -> None:
        self.shape, self.device, self.generator = shape, device, generator
        self.parameters = [p.to(device).requires_grad_() for p in self._start(arms)]

    @abstractmethod
    def _start(self, arms: int) -> list[Tensor]: ...

    @abstractmethod
    def stamp(self, pixels: Tensor, arm: Tensor) -> Tensor:
        """Each image with the trigger of its arm."""

    def stamp_all(self, pixels: Tensor, arm: int) -> Tensor:
        """Every image with the trigger of one arm."""
        return self.stamp(pixels, torch.full((len(pixels),), arm, device=pixels.device))

    @abstractmethod
    def size(self) -> Tensor:
        """One number an arm."""

    def limit(self, budget: float) -> None:
        """Shrink every arm that takes more room than the budget.

        As here where the size grows in proportion to the parameters (nearly, under a tanh: hence twice).
        """
        for _ in range(2):
            factor = (budget / self.size().clamp(min=1e-12)).clamp(max=1)
            for parameter in self.parameters:
                parameter.data.mul_(factor.view(-1, *[1] * (parameter.dim() - 1)))

    @abstractmethod
    def recovered(self, arm: int) -> TriggerPixels:
        """One arm's trigger."""

    def _noise(self, *size: int, scale: float) -> Tensor:
        return torch.randn(*size, generator=self.generator) * scale

    def keep(self, arms: Tensor, store: list[Tensor]) -> None:
        """Write the chosen arms' parameters into `store`."""
        for kept, parameter in zip(store, self.parameters, strict=True):
            kept[arms] = parameter.detach()[arms]

    def restore(self, store: list[Tensor]) -> None:
        for kept, parameter in zip(store, self.parameters, strict=True):
            parameter.data.copy_(kept)

    def state(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]


class Patch(Form):
    """Some pixels replaced: pixels * (1 - mask) + pattern * mask (Neural Cleanse's form)."""

    typical, rate, unit = 0.03, 0.3, "of the image"

    def _start(self, arms: int) -> list[Tensor]:
        channels, height, width = self.shape
        return [
            self._noise(arms, 1, height, width, scale=0.1) - 2,
            self._noise(arms, channels, height, width, scale=0.5),
        ]

    def mask(self) -> Tensor:
        return torch.sigmoid(self.parameters[0])

    def pattern(self) -> Tensor:
        return torch.sigmoid(self.parameters[1])

    def stamp(self, pixels: Tensor, arm: Tensor) -> Tensor:
        mask = self.mask()[arm]
        return (1 - mask) * pixels + mask * self.pattern()[arm]

    def size(self) -> Tensor:
        return self.mask().mean((1, 2, 3))

    def limit(self, budget: float) -> None:
        """Push the mask's logits of an arm down alike, by bisection, until it fits."""
        logits = self.parameters[0].data
        start, full = logits.clone(), self.size() > budget
        low, high = torch.zeros_like(start[:, :1, :1, :1]), torch.full_like(start[:, :1, :1, :1], 20.0)
        for _ in range(20):
            middle = (low + high) / 2
            logits.copy_(start - middle)
            fits = (self.size() <= budget).view(-1, 1, 1, 1)
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        logits.copy_(torch.where(full.view(-1, 1, 1, 1), start - high, start))

    def recovered(self, arm: int) -> MaskedPattern:
        return MaskedPattern(_numpy(self.mask()[arm, 0]), _numpy(self.pattern()[arm].permute(1, 2, 0)))


class Moving(Patch):
    """A small patch that works wherever it is put."""

    typical, rate, unit = 0.04, 0.3, "of the image"

    def _start(self, arms: int) -> list[Tensor]:
        channels, height, width = self.shape
        self.side = max(3, min(height, width) // 4)
        side = self.side
        return [self._noise(arms, 1, side, side, scale=0.1), self._noise(arms, channels, side, side, scale=0.5)]

    def stamp(self, pixels: Tensor, arm: Tensor) -> Tensor:
        _, height, width = self.shape
        rows, inside_rows = self._places(len(pixels), height)
        columns, inside_columns = self._places(len(pixels), width)
        image = arm[:, None, None]
        inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
        mask = self.mask()[image, 0, rows[:, :, None], columns[:, None, :]][:, None] * inside
        pattern = self.pattern().permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return (1 - mask) * pixels + mask * pattern

    def _places(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        start = torch.randint(0, length - self.side + 1, (count, 1), generator=self.generator)
        index = (torch.arange(length) - start).to(self.device)
        return index.clamp(0, self.side - 1), (index >= 0) & (index < self.side)

    def size(self) -> Tensor:
        return self.mask().sum((1, 2, 3)) / (self.shape[1] * self.shape[2])

    def recovered(self, arm: int) -> MaskedPattern:
        """Shown in the middle of the image, where it works as well as anywhere."""
        small, (_, height, width), side = super().recovered(arm), self.shape, self.side
        top, left = (height - side) // 2, (width - side) // 2
        around = ((top, height - side - top), (left, width - side - left))
        return MaskedPattern(np.pad(small.mask, around), np.pad(small.pattern, (*around, (0, 0))))


class Additive(Form):
    """The same change added to every image."""

    typical, rate, unit = 0.03, 0.02, "rms of the pixel range"

    def _start(self, arms: int) -> list[Tensor]:
        return [self._noise(arms, *self.shape, scale=0.02)]

    def change(self) -> Tensor:
        return torch.tanh(self.parameters[0])

    def stamp(self, pixels: Tensor, arm: Tensor) -> Tensor:
        return (pixels + self.change()[arm]).clamp(0, 1)

    def size(self) -> Tensor:
        return self.change().pow(2).mean((1, 2, 3)).sqrt()

    def recovered(self, arm: int) -> AddedChange:
        return AddedChange(_numpy(self.change()[arm].permute(1, 2, 0)))


class Smooth(Additive):
    """An added change without fine detail, on a coarse grid: blends, low-frequency and colour triggers."""

    typical, rate, unit = 0.1, 0.03, "rms of the pixel range"
    grid: ClassVar[int] = 8

    def _start(self, arms: int) -> list[Tensor]:
        return [self._noise(arms, self.shape[0], self.grid, self.grid, scale=0.03)]

    def change(self) -> Tensor:
        fine = F.interpolate(self.parameters[0], self.shape[1:], mode="bicubic", align_corners=False)
        return torch.tanh(fine)


class Lines(Additive):
    """An added change that is constant along rows or along columns: sinusoids, stripes, frames."""

    typical, rate, unit = 0.08, 0.02, "rms of the pixel range"

    def _start(self, arms: int) -> list[Tensor]:
        channels, height, width = self.shape
        return [self._noise(arms, channels, height, 1, scale=0.02), self._noise(arms, channels, 1, width, scale=0.02)]

    def change(self) -> Tensor:
        return torch.tanh(self.parameters[0] + self.parameters[1])


class Warp(Form):
    """The same smooth displacement of every image."""

    typical, rate, unit = 0.04, 0.1, "of the image's side, rms"
    grid: ClassVar[int] = 6

    def _start(self, arms: int) -> list[Tensor]:
        return [self._noise(arms, 2, self.grid, self.grid, scale=0.1)]

    def flow(self) -> Tensor:
        """Displacement as a share of the side; the parameters are in 32nds of it."""
        return F.interpolate(self.parameters[0], self.shape[1:], mode="bicubic", align_corners=True) / 32

    def stamp(self, pixels: Tensor, arm: Tensor) -> Tensor:
        return displaced(pixels, self.flow()[arm].permute(0, 2, 3, 1))

    def size(self) -> Tensor:
        return self.flow().pow(2).mean((1, 2, 3)).sqrt()

    def recovered(self, arm: int) -> Displacement:
        return Displacement(_numpy(self.flow()[arm].permute(1, 2, 0)))


FORMS: dict[str, type[Form]] = {
    "patch": Patch,
    "moving": Moving,
    "additive": Additive,
    "smooth": Smooth,
    "lines": Lines,
    "warp": Warp,
}
