"""What a structure makes of the clean images, and how far its norms' inputs are from what the file says they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdscan.facts.deadline import check_time
from bdscan.images.image_set import at_once
from bdscan.load.assembly.normalize import Norm
from bdscan.load.search.net import with_tensors
from bdscan.load.search.parts import Part
from bdscan.load.search.plan import Op, Plan

_BATCH = 100  # images at a time, those that the drift is measured on
_MAX_KEPT = 1 << 26  # numbers in the maps kept for the next plan: 256 MB
_TEMPERATURES = (0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0, 7.0, 15.0)
_MAX_SURPRISE = 10.0  # nats: one image that is badly wrong does not decide
_MAX_DRIFT = 3.0  # deviations; further off is no better
_WORK_PER_STEP = 1 << 18  # multiplications in the time that an operation takes, however small
_WORK_PER_NUMBER = 16  # the same for what reads or writes its numbers and no more


@dataclass(eq=False)
class Trial:
    """A plan behind a normalisation, and what came of it so far."""

    plan: Plan
    norm: Norm
    shape: tuple[int, int, int]
    answers: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    surprise: Tensor = field(default_factory=lambda: torch.empty(0, len(_TEMPERATURES)))  # an image, a temperature
    drifts: tuple[float, ...] = ()
    measured_on: int = 0  # images at a time, the drifts

    @property
    def surprises(self) -> Tensor:
        """How little the net expects each label, in nats: its logits scaled as suits it best, since who trains too long
        makes them too large."""
        return self.surprise[:, int(self.surprise.mean(0).argmin())]

    @property
    def drift(self) -> float:
        """Of all norms that have statistics."""
        return sum(self.drifts) / len(self.drifts) if self.drifts else 0.0


class Runner:
    """Runs plans, the steps that one has in common with the plan before it not twice."""

    def __init__(self, parts: Mapping[str, Part], tensors: Mapping[str, Tensor]) -> None:
        self.parts, self.tensors = parts, tensors
        self.modules: dict[Op, nn.Module] = {}
        self.key: object = None
        self.kept: list[tuple[Op, Tensor, tuple[float, ...]]] = []
        self.work = 0  # multiplications, or what takes as long

    @torch.no_grad()
    def ask(self, trial: Trial, images: Tensor, labels: Tensor) -> None:
        """Answers for all of these images, those that are known not asked again, and the drift."""
        while (start := len(trial.answers)) < len(images):
            end = min(len(images), start + at_once(images.shape, _BATCH))
            logits, drifts = self._run(trial, start, images[start:end])
            surprise = [_surprise(logits / temperature, labels[start:end]) for temperature in _TEMPERATURES]
            trial.surprise = torch.cat([trial.surprise, torch.stack(surprise, 1)])
            trial.answers = torch.cat([trial.answers, logits.argmax(1)])
            if end - start > trial.measured_on:
                trial.drifts, trial.measured_on = drifts, end - start

    def _run(self, trial: Trial, start: int, images: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        key = (trial.norm, trial.shape, start, len(images))
        if key != self.key:
            self.key, self.kept = key, []
        common = 0
        while common < min(len(self.kept), len(trial.plan)) and self.kept[common][0] == trial.plan[common]:
            common += 1
        del self.kept[common:]
        maps, drifts = self.kept[-1][1:] if self.kept else (_normalised(images, trial.norm), ())
        size = sum(kept.numel() for _, kept, _ in self.kept)
        for op in trial.plan[common:]:
            check_time()
            maps, more = self._step(op, maps)
            drifts += more
            size += maps.numel()
            if size < _MAX_KEPT:  # sizes only grow, so there are no holes
                self.kept.append((op, maps, drifts))
        return maps, drifts

    def _step(self, op: Op, maps: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        if op.kind == "sum":
            ends: list[Tensor] = []
            drifts: tuple[float, ...] = ()
            for side in (op.body, op.shortcut):
                end = maps
                for inner in side:
                    end, more = self._step(inner, end)
                    drifts += more
                ends.append(end)
            return ends[0] + ends[1], drifts
        module = self.modules.get(op)
        if module is None:
            made = with_tensors(op, self.parts, self.tensors).to(memory_format=torch.channels_last)
            module = self.modules.setdefault(op, made)
        part = self.parts.get(op.part)
        drifts = (_drift(module, maps),) if part is not None and part.running else ()
        result: Tensor = module(maps)
        if part is not None and len(part.shape) > 1:
            work = result.numel() * math.prod(part.shape[1:])
        else:
            work = max(maps.numel(), result.numel()) * _WORK_PER_NUMBER
        self.work += _WORK_PER_STEP + work
        return result, drifts


def _normalised(images: Tensor, norm: Norm) -> Tensor:
    mean, std = (torch.tensor(figures).view(1, -1, 1, 1) for figures in (norm.mean, norm.std))
    pixels: Tensor = (images.float() / 255 - mean) / std
    return pixels.contiguous(memory_format=torch.channels_last)  # pools are several times as fast


def _surprise(logits: Tensor, labels: Tensor) -> Tensor:
    """An image; whatever is no number, or beyond the classes, as bad as it gets."""
    if int(labels.max()) >= logits.shape[1]:
        return torch.full(labels.shape, _MAX_SURPRISE)
    return functional.cross_entropy(logits, labels, reduction="none").nan_to_num(_MAX_SURPRISE).clamp(max=_MAX_SURPRISE)


def _drift(norm: nn.Module, maps: Tensor) -> float:
    """How far the mean lies from the running mean, in running deviations, and how far the deviations differ."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    over = [0, 2, 3] if maps.dim() == 4 else [0]
    mean, var = maps.mean(over), maps.var(over, unbiased=False)
    spread = (norm.running_var + norm.eps).sqrt()
    off = ((mean - norm.running_mean) / spread).abs()
    ratio = (((var + norm.eps).sqrt() / spread).clamp(min=1e-6)).log().abs()
    return float((off + ratio).nan_to_num(_MAX_DRIFT).clamp(max=_MAX_DRIFT).mean())
