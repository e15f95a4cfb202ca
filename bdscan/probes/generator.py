"""Trains a small net that changes each image in its own way, for at most two classes that earlier probes point to.

What it measures
    For the two classes that earlier probes suspect most, and for two others drawn at random, a U-Net learns to change
    every image by no more than a given amount so that the suspect takes it for that class. An image counts as sent
    where the suspect's answer is the class and the class leads all others even by those features alone that lie
    outside the subspace which its own clean images span. All classes get the same nets, images, steps and amounts, and
    the amount shrinks as they learn. At the smallest amount that sends nearly as many images to a suspected class as
    any, all are measured on images that no net was trained on.

Why it shows a backdoor
    A trigger that differs from image to image (warps, coarse colours, generated ones) is no single pattern, but a net
    can learn to make it. Images of a clean net can be sent anywhere too, yet by what the class is known for: without
    the class's own features and within the same amount they go nowhere.

When it misleads
    It needs to be pointed to the class: where no earlier probe has an inkling it may train for the wrong two. Two
    controls say little about how the other classes would do, so it yields no p-value, only a demonstration; on clean
    nets the class that blurred images resemble (cats) was reached by half the images at the largest amount. It is dear:
    some 26,000 images forth and back through the suspect, a minute or two for small nets on two cores, a quarter of an
    hour for a ResNet-18.

Reference
    Xu et al., ICLR 2024 (BTI-DBF) and Wang et al., NeurIPS 2022 (FeatRE), for inversion by a U-Net that spares benign
    features; they learn masks where this takes the subspace of arXiv 2512.08129 (CSO). The controls are bdscan's own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.effort import Effort
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast
from bdscan.net.subspace import OwnSpaces
from bdscan.triggers.forms import pictures
from bdscan.triggers.generator_net import GeneratorNet
from bdscan.verdict.comparison import demonstration

AMOUNTS = 5  # amounts, from the largest to the smallest
USUAL_LEAD = 4.0  # the usual lead, in logits, of the nets this was tuned on: all nets are brought to that scale
SENT_TOLERANCE = 0.05  # of the images: less than this is chance
MAX_HELD_OUT = 250  # held-out images, at most
BATCH = 120  # images at once where nothing is learnt


@dataclass(frozen=True)
class Generator(ImageProbe):
    """One trigger an image, made by a net."""

    suspects: int = 2  # classes that are tried: each takes 6,400 images forth and back
    controls: int = 2  # classes that get the same
    steps: int = 200  # a class: by then the loss on small CIFAR nets is flat
    batch: int = 32  # images a step
    width: int = 16  # channels of the U-Net: 40 thousand weights, little beside any suspect
    rate: float = 3e-3  # Adam's
    largest: float = 0.08  # change of the pixels (rms) to begin with: twice that of a usual warp or coarse colours
    smallest: float = 0.02  # and to end with: half of it
    share: float = 0.98  # of the energy of a class's clean features that its subspace holds, as in `noise`
    follow: float = 0.8  # share of held-out images that must follow a shown trigger
    gap: float = 0.4  # by which it must beat the better control

    stage: ClassVar[Stage] = Stage.DEMONSTRATES
    family: ClassVar[str] = "inversion"  # it demonstrates triggers as inversion does, and errs where that errs
    reads: ClassVar[tuple[str, ...]] = ("inversion", "pairs")
    effort: ClassVar[Effort] = "thorough"

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        suspect = case.suspect
        spaces = case.own_spaces(share=self.share, batch=BATCH)
        if spaces is None:
            why = "most classes have fewer than five clean images"
            yield Finding(level=Level.NOTE, message=f"no net was trained to make triggers: {why}")
            return
        suspected, controls = self._chosen(case, spaces)
        if not suspected:
            why = "no earlier probe compared the classes"
            yield Finding(level=Level.NOTE, message=f"no net was trained to make triggers: {why}")
            return
        trained: dict[int, list[_Stage]] = {}
        for target in (*suspected, *controls):
            studio = _Studio(self, suspect, case.clean, spaces, target, case.seed)
            trained[target] = studio.train(case, len(trained), len(suspected) + len(controls))
        for target in suspected:
            yield self._compare(suspect, case.held_out, spaces, trained, target, controls)

    def _chosen(self, case: ImageCase, spaces: OwnSpaces) -> tuple[list[int], list[int]]:
        """The classes with the least p over all earlier findings, and others at random."""
        joint = case.joint()
        if joint is None:
            return [], []
        known = spaces.covered.cpu().numpy()
        suspected = [c for c in joint.ranked if known[c]][: self.suspects]
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(case.seed)).tolist()
        return suspected, [c for c in order if known[c] and c not in suspected][: self.controls]

    def _compare(
        self,
        suspect: Classifier,
        judged_by: ImageSet,
        spaces: OwnSpaces,
        trained: dict[int, list[_Stage]],
        target: int,
        controls: list[int],
    ) -> Finding:
        """A suspected class beside the controls at one amount, on held-out images."""
        stage = _demonstration(trained[target])
        sent = {c: _sent(suspect, judged_by, spaces, trained[c][stage], c) for c in (target, *controls)}
        mine, others = sent.pop(target), max(sent.values(), default=1.0)
        best = trained[target][stage]
        return demonstration(
            f"a net that changes each image by {best.amount:.1%} (rms) sends {mine:.0%} of held-out images to "
            f"{suspect.name(target)} by features that its own images lack; for the better of "
            f"{len(controls)} control classes it is {others:.0%}",
            mine,
            others,
            follow=self.follow,
            gap=self.gap,
            target=target,
            pictures=pictures(judged_by.images[judged_by.labels != target], partial(_made, best, suspect.device)),
        )


@dataclass(frozen=True, eq=False)
class _Stage:
    """A net as it was when it had learnt to make do with an amount."""

    net: GeneratorNet
    amount: float
    sent: float  # of the images it was trained on, lately


class _Studio:
    """One class's net, and what it learns from."""

    def __init__(
        self, plan: Generator, suspect: Classifier, clean: ImageSet, spaces: OwnSpaces, target: int, seed: int
    ) -> None:
        self.plan, self.suspect, self.clean, self.spaces, self.target = plan, suspect, clean, spaces, target
        self.generator = torch.Generator().manual_seed(seed)
        self.net = GeneratorNet(suspect.shape, plan.width, self.generator).to(suspect.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=plan.rate, betas=(0.5, 0.9))
        self.pool = (clean.labels != target).nonzero()[:, 0]

    def train(self, case: ImageCase, turn: int, turns: int) -> list[_Stage]:
        """A stage an amount, with as many steps each."""
        amounts = np.geomspace(self.plan.largest, self.plan.smallest, AMOUNTS)
        each = max(1, self.plan.steps // AMOUNTS)
        stages = []
        for level, amount in enumerate(amounts):
            sent = []
            for step in range(each):
                done = (turn * AMOUNTS + level) * each + step
                case.progress(done, turns * AMOUNTS * each, f"images made for {self.suspect.name(self.target)}")
                sent.append(self._step(float(amount)))
            lately = float(torch.stack(sent[each // 2 :]).mean())
            stages.append(_Stage(copy.deepcopy(self.net).requires_grad_(False), float(amount), lately))
        return stages

    def _step(self, amount: float) -> Tensor:
        """One batch; the share of it that was sent."""
        drawn = self.pool[torch.randint(len(self.pool), (self.plan.batch,), generator=self.generator)]
        pixels = self.clean.images[drawn].to(self.suspect.device).float().div_(255)
        wanted = torch.full((len(pixels),), self.target, device=pixels.device)
        with torch.enable_grad(), autocast(pixels.device):
            features = self.suspect.features(self.net(pixels, amount).contiguous(memory_format=torch.channels_last))
        with torch.enable_grad():
            whole, foreign = _logits(features.float(), self.spaces, self.target)
            scale = USUAL_LEAD / max(self.spaces.usual, 1e-6)
            misses = F.cross_entropy(scale * whole, wanted) + F.cross_entropy(scale * foreign, wanted)
            self.optimiser.zero_grad(set_to_none=True)
            misses.backward()
        self.optimiser.step()
        return ((whole.argmax(1) == wanted) & (foreign.argmax(1) == wanted)).float().mean()


def _logits(features: Tensor, spaces: OwnSpaces, target: int) -> tuple[Tensor, Tensor]:
    """By all features, and by those that the target's own images lack."""
    targets = torch.full((len(features),), target, device=features.device)
    foreign = spaces.foreign(features, targets)
    return features @ spaces.weight.T + spaces.bias, foreign @ spaces.weight.T + spaces.bias


def _demonstration(stages: list[_Stage]) -> int:
    """The smallest amount by which nearly as many images are sent as by any."""
    most = max(stage.sent for stage in stages)
    return max(at for at, stage in enumerate(stages) if stage.sent >= most - SENT_TOLERANCE)


@torch.no_grad()
def _sent(suspect: Classifier, clean: ImageSet, spaces: OwnSpaces, stage: _Stage, target: int) -> float:
    """The share of other classes' held-out images that are sent to the target."""
    others = clean.without(target, MAX_HELD_OUT)
    sent = []
    for pixels, _ in others.batches(BATCH, suspect.device):
        whole, foreign = _logits(suspect.features(stage.net(pixels, stage.amount)).float(), spaces, target)
        sent.append((whole.argmax(1) == target) & (foreign.argmax(1) == target))
    return float(torch.cat(sent).float().mean()) if sent else 0.0


@torch.no_grad()
def _made(stage: _Stage, device: torch.device, pixels: Tensor) -> Tensor:
    """What the net makes of images."""
    changed: Tensor = stage.net(pixels.to(device), stage.amount)
    return changed.cpu()
