"""Trigger inversion: the smallest universal change that sends images to a class, for many classes at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import Pictures, RecoveredTrigger
from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet, at_once
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast
from bdscan.triggers.forms import FORMS, Form, pictures, stamper

GOAL = 0.9  # of the images must follow for a trigger to count (Neural Cleanse asks 0.99, Pixel 0.9)
PENALTY = 0.25  # weight of a trigger of typical size beside the cross-entropy, at the start
HARDER, EASIER = 1.15, 1.15**1.5  # the schedule of Neural Cleanse, a step at a time instead of an epoch at a time
SUCCESS_MEMORY = 0.7  # of the running success rate
MAX_ARMS = 12  # arms that may run side by side to the end
MAX_LOSS = 6.0  # on one image's cross-entropy: an image that will not follow must not rule the batch


@dataclass
class Arms:
    """What became of the arms: their triggers, the sizes and the success on the images worked with."""

    form: Form
    classes: tuple[int, ...]  # the class of each arm
    finished: Tensor  # ran to the end, rather than being dropped on the way
    size: Tensor
    reached: Tensor  # the goal was reached at that size
    sources: tuple[int, ...] | None = None  # the only class whose images each arm leads away; None: all but its own

    def led(self, labels: Tensor, arm: int) -> Tensor:
        """Which images the arm's trigger is to lead to its class."""
        return _led(labels, self.classes[arm], self.sources[arm] if self.sources else None)


def _led(labels: Tensor, target: int, source: int | None) -> Tensor:
    return labels != target if source is None else labels == source


def invert(
    suspect: Classifier,
    clean: ImageSet,
    name: str,
    classes: tuple[int, ...],
    *,
    steps: int,
    images: int,
    seed: int,
    controls: tuple[int, ...] = (),
    progress: Progress,
) -> Arms:
    """Run all classes a little way and the better half on, until few are left; each round costs the same."""
    search = _Search(suspect, clean, name, classes, images, seed)
    rounds = max(0, math.ceil(math.log2(len(classes) / MAX_ARMS)))
    short = max(1, steps // 5)
    total = rounds * short + steps
    for done in range(total):
        if done and done % short == 0 and done <= rounds * short:
            search.halve(controls)
        search.step()
        progress(done + 1, total, f"{name} triggers for {len(search.active)} classes")
    return search.result()


def invert_pairs(
    suspect: Classifier,
    clean: ImageSet,
    name: str,
    pairs: Sequence[tuple[int, int]],
    *,
    steps: int,
    images: int,
    seed: int,
    progress: Progress,
) -> Arms:
    """One trigger for each pair of a source and a target, which need move the images of that source alone."""
    sources, targets = tuple(source for source, _ in pairs), tuple(target for _, target in pairs)
    search = _Search(suspect, clean, name, targets, images, seed, sources)
    for done in range(steps):
        search.step()
        progress(done + 1, steps, f"{name} triggers for {len(pairs)} pairs of classes")
    return search.result()


class _Search:
    """The arms of one form, their optimiser and what each has reached."""

    def __init__(
        self,
        suspect: Classifier,
        clean: ImageSet,
        name: str,
        classes: tuple[int, ...],
        images: int,
        seed: int,
        sources: tuple[int, ...] | None = None,
    ) -> None:
        self.suspect, self.clean, self.images = suspect, clean, images
        self.classes, self.sources = classes, sources
        self.generator = torch.Generator().manual_seed(seed)
        device, count = suspect.device, len(classes)
        self.form = FORMS[name](count, suspect.shape, self.generator, device)
        self.optimiser = torch.optim.Adam(self.form.parameters, lr=self.form.rate, betas=(0.5, 0.9))
        self.pools = [
            _led(clean.labels, c, s).nonzero()[:, 0] for c, s in zip(classes, sources or [None] * count, strict=True)
        ]
        self.targets = torch.tensor(classes, device=device)
        self.active = torch.arange(count, device=device)
        self.penalty = torch.full((count,), PENALTY, device=device)
        self.success = torch.full((count,), float("nan"), device=device)
        self.cost = torch.zeros(count, device=device)
        self.best = torch.full((count,), math.inf, device=device)
        self.store = self.form.state()

    def step(self, budget: float | None = None) -> None:
        """One step of every arm; within a budget its size is bounded, else it is paid for."""
        each = max(2, self.images // len(self.active))
        drawn = [
            self.pools[a][torch.randint(len(self.pools[a]), (each,), generator=self.generator)] for a in self.active
        ]
        arm = self.active.repeat_interleave(each)
        self.optimiser.zero_grad(set_to_none=True)
        index, most = torch.cat(drawn), at_once(self.suspect.shape, len(arm))
        parts = [self._slopes(i, a, each) for i, a in zip(index.split(most), arm.split(most), strict=True)]
        misses, hits = (torch.cat(values).view(-1, each).mean(1) for values in zip(*parts, strict=True))
        size = self.form.size()[self.active]
        (self.penalty[self.active] * size / self.form.typical).sum().backward()
        if budget is None:
            self._note(hits, misses, size.detach())
        self.optimiser.step()
        if budget is not None:
            self.form.limit(budget)

    def _slopes(self, index: Tensor, arm: Tensor, each: int) -> tuple[Tensor, Tensor]:
        """Adds to the gradients what some images say of their arms; their cross-entropies, and which followed."""
        pixels = self.clean.images[index].to(self.suspect.device).float().div_(255)
        stamped = self.form.stamp(pixels, arm).contiguous(memory_format=torch.channels_last)
        with autocast(self.suspect.device):
            logits = self.suspect(stamped).float()
        wanted = self.targets[arm]
        misses = F.cross_entropy(logits, wanted, reduction="none").clamp(max=MAX_LOSS)
        (misses.sum() / each).backward()
        return misses.detach(), (logits.detach().argmax(1) == wanted).float()

    def _note(self, hits: Tensor, misses: Tensor, size: Tensor) -> None:
        before = self.success[self.active]
        success = torch.where(before.isnan(), hits, SUCCESS_MEMORY * before + (1 - SUCCESS_MEMORY) * hits)
        reached = success >= GOAL
        better = reached & (size < self.best[self.active])
        self.form.keep(self.active[better], self.store)
        self.best[self.active[better]] = size[better]
        self.success[self.active] = success
        self.cost[self.active] = misses + size / self.form.typical
        factor = torch.where(reached, HARDER, 1 / EASIER)
        self.penalty[self.active] = (self.penalty[self.active] * factor).clamp(PENALTY * 0.01, PENALTY * 1000)

    def halve(self, controls: tuple[int, ...]) -> None:
        """Keep the more promising half, and the controls whatever they promise."""
        keep = max(MAX_ARMS, len(self.active) // 2)
        fixed = torch.tensor([self.classes[a] in controls for a in self.active.tolist()], device=self.active.device)
        rank = torch.where(fixed, -math.inf, self.cost[self.active]).argsort()
        self.active = self.active[rank[:keep]].sort().values

    def result(self) -> Arms:
        reached = self.best.isfinite()
        self.form.keep((~reached).nonzero()[:, 0], self.store)
        self.form.restore(self.store)
        for parameter in self.form.parameters:
            parameter.requires_grad_(False)
        finished = torch.zeros(len(self.classes), dtype=torch.bool)
        finished[self.active.cpu()] = True
        return Arms(self.form, self.classes, finished, self.form.size().cpu(), reached.cpu(), self.sources)


def success(suspect: Classifier, clean: ImageSet, arms: Arms, arm: int) -> tuple[float, Tensor]:
    """The share of the images that were to follow the arm's trigger and do, and where every image goes."""
    went = suspect.answers(clean, partial(arms.form.stamp_all, arm=arm)).argmax(1)
    return float((went[arms.led(clean.labels, arm)] == arms.classes[arm]).float().mean()), went


def contest(
    suspect: Classifier,
    clean: ImageSet,
    name: str,
    arms: Arms,
    budget: float,
    *,
    steps: int,
    images: int,
    seed: int,
    progress: Progress,
) -> Arms:
    """All finished arms again, from where they stand, at one budget: none may take more room than another."""
    search = _Search(suspect, clean, name, arms.classes, images, seed, arms.sources)
    search.form.restore(arms.form.parameters)
    search.form.limit(budget)
    search.active = arms.finished.nonzero()[:, 0].to(suspect.device)
    search.penalty.zero_()
    for done in range(steps):
        search.step(budget)
        progress(done + 1, steps, f"{name} triggers of equal size for {len(search.active)} classes")
    search.form.limit(budget)
    size = search.form.size().detach().cpu()
    return Arms(search.form, arms.classes, arms.finished, size, arms.reached, arms.sources)


@dataclass(frozen=True, eq=False)
class ContestResult:
    """How one arm's trigger did against those of the others at the same size, on held-out images."""

    arms: Arms
    arm: int
    budget: float
    mine: float  # share that follow
    others: float  # the median of the other arms'
    went: Tensor  # where every image goes under it

    @property
    def size(self) -> float:
        return float(self.arms.size[self.arm])

    def trigger(self, form: str) -> RecoveredTrigger:
        return RecoveredTrigger(pixels=self.arms.form.recovered(self.arm), form=form, room=self.budget)

    def pictures(self, judged_by: ImageSet) -> Pictures:
        """The images it was to lead away beside themselves with it on."""
        led = judged_by.images[self.arms.led(judged_by.labels, self.arm)]
        return pictures(led, stamper(self.arms.form.recovered(self.arm)))


def challenge(
    suspect: Classifier,
    clean: ImageSet,
    judged_by: ImageSet,
    name: str,
    arms: Arms,
    arm: int,
    *,
    steps: int,
    images: int,
    seed: int,
    progress: Progress,
) -> ContestResult:
    """A contest at a little more than the size of one arm's trigger, judged on held-out images."""
    budget = float(arms.size[arm]) * 1.1
    equal = contest(suspect, clean, name, arms, budget, steps=steps, images=images, seed=seed, progress=progress)
    mine, went = success(suspect, judged_by, equal, arm)
    rivals = [a for a in range(len(arms.classes)) if bool(equal.finished[a]) and a != arm]
    others = float(np.median([success(suspect, judged_by, equal, a)[0] for a in rivals])) if rivals else 1.0
    return ContestResult(equal, arm, budget, mine, others, went)
