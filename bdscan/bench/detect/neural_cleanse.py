"""Neural Cleanse as published, one class after the other: what `inspect` is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast
from bdscan.verdict.statistics import robust_z

MAX_INDEX = 2.0  # the paper's threshold of the anomaly index


@dataclass(frozen=True)
class NeuralCleanseSettings:
    """The settings, as in Wang et al., IEEE S&P 2019, and in its later comparisons."""

    steps: int = 1000  # for each class
    batch: int = 100
    rate: float = 0.1  # of Adam
    success: float = 0.99  # what the trigger must reach on a batch
    patience: int = 5  # steps in a row before the weight of the mask's size changes
    weight: float = 1e-3  # of the mask's size, once the trigger first works
    up: float = 1.5
    down: float = 1.5**1.5


@dataclass(frozen=True)
class NeuralCleanseResult:
    """One mask size a class, and how far the smallest lies below the others."""

    norms: tuple[float, ...]
    index: float  # of the smallest mask, 1.4826 x MAD; never negative
    target: int  # the class of the smallest mask
    masks: Tensor  # classes x H x W

    @property
    def flagged(self) -> bool:
        return self.index > MAX_INDEX


def neural_cleanse(
    suspect: Classifier,
    clean: ImageSet,
    settings: NeuralCleanseSettings,
    seed: int = 0,
) -> NeuralCleanseResult:
    """Search the smallest trigger of every class."""
    masks = [smallest_mask(suspect, clean, target, settings, seed) for target in range(suspect.classes)]
    norms = tuple(float(mask.sum()) for mask in masks)
    target = min(range(len(norms)), key=norms.__getitem__)
    return NeuralCleanseResult(norms, -float(robust_z(norms)[target]), target, torch.stack(masks))


def smallest_mask(
    suspect: Classifier, clean: ImageSet, target: int, settings: NeuralCleanseSettings, seed: int
) -> Tensor:
    """The smallest mask found that sends a batch to the target; the last one where none does."""
    generator = torch.Generator().manual_seed(seed * suspect.classes + target)
    raw_mask = _start((1, 1, *suspect.shape[1:]), generator, suspect.device)
    raw_pattern = _start((1, *suspect.shape), generator, suspect.device)
    optimiser = torch.optim.Adam([raw_mask, raw_pattern], lr=settings.rate, betas=(0.5, 0.9))
    weight, best, least = _SizeWeight(settings), raw_mask.detach(), float("inf")
    for _ in range(settings.steps):
        index = torch.randint(0, len(clean), (settings.batch,), generator=generator)
        pixels = clean.images[index].to(suspect.device).float() / 255
        mask, pattern = torch.tanh(raw_mask) / 2 + 0.5, torch.tanh(raw_pattern) / 2 + 0.5
        with autocast(suspect.device):  # as the probes do: twice as fast, and the same triggers
            logits = suspect((1 - mask) * pixels + mask * pattern).float()
        wanted = torch.full((len(pixels),), target, device=suspect.device)
        loss = F.cross_entropy(logits, wanted) + weight.value * mask.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        reached, tried = float((logits.argmax(1) == target).float().mean()), mask.detach()
        if reached >= settings.success and float(tried.sum()) < least:
            best, least = tried, float(tried.sum())
        elif least == float("inf"):
            best = tried
        weight.adapt(reached)
    return best[0, 0].cpu()


def _start(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Uniform between 0 and 1 once it has gone through tanh."""
    return torch.atanh((torch.rand(shape, generator=generator) * 2 - 1) * 0.999).to(device).requires_grad_()


class _SizeWeight:
    """What the mask's size costs: nothing until the trigger works, then up and down with its success."""

    def __init__(self, settings: NeuralCleanseSettings) -> None:
        self.settings, self.value = settings, 0.0
        self.good = self.bad = 0  # steps in a row

    def adapt(self, reached: float) -> None:
        works = reached >= self.settings.success
        self.good, self.bad = (self.good + 1, 0) if works else (0, self.bad + 1)
        if self.good >= self.settings.patience:
            self.value, self.good = self.value * self.settings.up or self.settings.weight, 0
        elif self.bad >= self.settings.patience:
            self.value, self.bad = self.value / self.settings.down, 0
