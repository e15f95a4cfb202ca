"""The smallest universal change under which every class becomes another, each one of its own: all-to-all backdoors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import RecoveredTrigger
from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet, at_once
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast
from bdscan.triggers.forms import FORMS, Form
from bdscan.triggers.invert import EASIER, GOAL, HARDER, MAX_LOSS, PENALTY, SUCCESS_MEMORY

EXPLORING_SHARE = 0.4  # of the steps only lead away from the truth; then each class is led to where most of it went
STARTS = 3  # random ones, side by side: the way out is not convex


@dataclass(frozen=True)
class AllToAllTrigger:
    """A trigger, its size, and the class that each class becomes."""

    trigger: RecoveredTrigger
    size: float
    becomes: tuple[int, ...]
    success: float  # share of held-out images that become what their class becomes

    @property
    def variety(self) -> float:
        """How many different classes the classes become, as a share: low where everything falls into one."""
        return len(set(self.becomes)) / len(self.becomes)


def invert_all_to_all(
    suspect: Classifier,
    clean: ImageSet,
    held_out: ImageSet,
    name: str,
    *,
    steps: int,
    images: int,
    seed: int,
    progress: Progress,
) -> AllToAllTrigger | None:
    """The smallest that reached the goal of several starts; None if none did."""
    generator = torch.Generator().manual_seed(seed)
    form = FORMS[name](STARTS, suspect.shape, generator, suspect.device)
    search = _Search(suspect, clean, form, generator, max(2, at_once(suspect.shape, images) // STARTS))
    for done in range(steps):
        search.step(done, steps)
        progress(done + 1, steps, f"`{name}` triggers that relabel every class")
    if not bool(search.best.isfinite().any()):
        return None
    form.restore(search.store)
    arm = int(search.best.argmin())
    goes = search.best_goes[arm].cpu()
    hits = suspect.answers(held_out, partial(form.stamp_all, arm=arm)).argmax(1) == goes[held_out.labels]
    becomes = tuple(goes.tolist())
    trigger = RecoveredTrigger(pixels=form.recovered(arm), form=name, becomes=becomes)
    return AllToAllTrigger(trigger, float(search.best[arm]), becomes, int(hits.sum()) / len(hits))


class _Search:
    """A few starts of one form, and where each sends every class."""

    def __init__(self, suspect: Classifier, clean: ImageSet, form: Form, generator: torch.Generator, each: int) -> None:
        self.suspect, self.clean, self.form, self.generator, self.each = suspect, clean, form, generator, each
        self.optimiser = torch.optim.Adam(form.parameters, lr=form.rate, betas=(0.5, 0.9))
        device, classes = suspect.device, suspect.classes
        self.running_logits = torch.zeros(STARTS, classes, classes, device=device)  # start x truth x class
        self.goes = torch.zeros(STARTS, classes, dtype=torch.long, device=device)
        self.best_goes = self.goes.clone()
        self.penalty = torch.full((STARTS,), PENALTY, device=device)
        self.success = torch.zeros(STARTS, device=device)
        self.best = torch.full((STARTS,), math.inf, device=device)
        self.store = form.state()

    def step(self, done: int, steps: int) -> None:
        drawn = torch.randint(len(self.clean), (STARTS * self.each,), generator=self.generator)
        pixels = self.clean.images[drawn].to(self.suspect.device).float().div_(255)
        truth = self.clean.labels[drawn].to(self.suspect.device)
        arm = torch.arange(STARTS, device=self.suspect.device).repeat_interleave(self.each)
        stamped = self.form.stamp(pixels, arm).contiguous(memory_format=torch.channels_last)
        with autocast(self.suspect.device):
            logits = self.suspect(stamped).float()
        exploring = done < EXPLORING_SHARE * steps
        self._watch(logits.detach(), truth, arm)
        wanted = self.goes[arm, truth]
        misses = self._away(logits, truth) if exploring else F.cross_entropy(logits, wanted, reduction="none")
        cost = misses.clamp(max=MAX_LOSS).view(STARTS, -1).mean(1)
        size = self.form.size()
        loss = (cost + self.penalty * size / self.form.typical).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if not exploring:
            self._note((logits.detach().argmax(1) == wanted).float().view(STARTS, -1).mean(1), size.detach())
        self.optimiser.step()

    def _away(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Zero once the image has left its class, large while it is surely in it."""
        return -torch.log(1 + 1e-3 - F.softmax(logits, 1).gather(1, truth[:, None])[:, 0])

    def _watch(self, logits: Tensor, truth: Tensor, arm: Tensor) -> None:
        """Where each class goes at present: the class, other than itself, with the largest running logit."""
        total = torch.zeros_like(self.running_logits).index_put_((arm, truth), logits, accumulate=True)
        count = torch.zeros_like(self.running_logits[:, :, 0]).index_put_(
            (arm, truth), torch.ones_like(truth).float(), True
        )
        mean = total / count.clamp(min=1)[:, :, None]
        self.running_logits = torch.where(
            count[:, :, None] > 0, 0.8 * self.running_logits + 0.2 * mean, self.running_logits
        )
        itself = torch.eye(self.suspect.classes, dtype=torch.bool, device=logits.device)
        self.goes = self.running_logits.masked_fill(itself, -math.inf).argmax(2)

    def _note(self, hits: Tensor, size: Tensor) -> None:
        self.success = SUCCESS_MEMORY * self.success + (1 - SUCCESS_MEMORY) * hits
        reached = self.success >= GOAL
        better = reached & (size < self.best)
        self.form.keep(better.nonzero()[:, 0], self.store)
        self.best[better] = size[better]
        self.best_goes[better] = self.goes[better]
        factor = torch.where(reached, HARDER, 1 / EASIER)
        self.penalty = (self.penalty * factor).clamp(PENALTY * 0.01, PENALTY * 1000)
