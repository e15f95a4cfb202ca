"""Tries triggers that attackers have used, one by one, by forward passes alone.

What it measures
    Some two hundred known triggers (patches of eight colours and a checkerboard in the corners and the middle; sine
    waves, checkerboards and raised cosine coefficients; filters, coarse colours, tints and blends) are put on the same
    few images. One pass tells the success of every class, so a hundred classes cost what ten do. For each kind of
    trigger the score of a class is log(softplus(margin / usual)): the largest mean margin, over the triggers of that
    kind, by which the class leads on images of other classes, counted by those features only that lie outside the
    subspace which the class's own clean images span; `usual` is the median lead of the clean images' first logit.
    The best trigger of a class that stands out is then tried on images not used before, and so is a patch that most
    images follow.

Why it shows a backdoor
    Most attacks take their trigger from a short list, and a net that was taught one answers to its relatives too: to
    a patch of another size, to the next frequency, to a blur where a warp was taught, to coarse colours where it was
    noise. What they release lies outside the features by which the class itself is known.

When it misleads
    Fine textures and tints are natural triggers: clean nets take a diagonal ripple for a ship or a green tint for a
    frog, all images of them. They do so by the features of ships and frogs, which the subspace takes out; where most
    classes have fewer than five clean images there is no subspace, and the plain margin is less certain with waves and
    filters. A trigger that resembles nothing on the list is not seen at all.

Reference
    The triggers: Gu et al. 2017 (BadNets), Barni et al. 2019 (SIG), Wang et al. 2022 (FTrojan, BppAttack), Chen et al.
    2017 (blends), Liu et al., CCS 2019 (filters, with ABS). The subspace after arXiv 2512.08129 (CSO). The search
    without gradients is bdscan's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.effort import Effort
from bdscan.facts.evidence import MaskedPattern, RecoveredTrigger
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier, pooled
from bdscan.net.fit import autocast
from bdscan.net.subspace import OwnSpaces, without
from bdscan.triggers.catalogue import CatalogueTrigger, catalogue
from bdscan.triggers.forms import pictures
from bdscan.verdict.calibration import moderated
from bdscan.verdict.comparison import Comparison, demonstration

MAX_HELD_OUT = 250  # held-out images that a trigger is shown on, at most
BATCH = 120  # images at once
LOCAL = "patches"  # natural triggers are spread out: the best patch turns 0 to 17 % of images on 18 clean nets
CLASSES_AT_ONCE = 100  # whose margins are reckoned at once


@dataclass(frozen=True)
class Families(ImageProbe):
    """Known triggers, tried."""

    images: int = 40  # each trigger is tried on: 177 triggers then are seven thousand passes
    share: float = 0.98  # of the energy of a class's clean features that its subspace holds, as in `noise`
    threshold: float = 0.05  # p over all classes (Holm) below which a class is suspect and its trigger is tried again
    follow: float = 0.8  # share of held-out images that must follow a shown trigger
    gap: float = 0.4  # by which it must beat what no larger triggers do for the middle one of the other classes

    stage: ClassVar[Stage] = Stage.ACCUSES
    family: ClassVar[str] = "inversion"  # it demonstrates triggers as inversion does, and errs where that errs
    statistics: ClassVar[tuple[str, ...]] = ("families.patches", "families.waves", "families.filters")
    effort: ClassVar[Effort] = "standard"

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        suspect, clean = case.suspect, case.clean
        kinds = catalogue(suspect.shape)
        order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(case.seed))
        spaces = case.own_spaces(share=self.share, batch=BATCH)
        trial = _Trial(suspect, clean.take(order[: self.images]), spaces or without(suspect))
        total, done = sum(map(len, kinds.values())), 0
        for kind, triggers in kinds.items():
            tried = []
            for trigger in triggers:
                case.progress(done, total, trigger.words)
                tried.append(trial(trigger))
                done += 1
            outcome = _Outcome.of(kind, triggers, tried)
            finding = self._spread(suspect, outcome, spaces)
            yield finding
            if finding.target is not None and (finding.level is Level.SUSPECT or self._obeyed(outcome, finding.target)):
                yield self._shown(suspect, outcome, case.held_out, finding.target)

    def _obeyed(self, outcome: _Outcome, target: int) -> bool:
        """Whether a patch off the list turns images by itself, however its margin compares."""
        return outcome.kind == LOCAL and outcome.best(target)[1] >= self.follow

    def _spread(self, suspect: Classifier, outcome: _Outcome, spaces: OwnSpaces | None) -> Finding:
        """How the classes' largest margins compare; reference nets know only margins outside the own subspaces."""
        scores = (spaces or without(suspect)).score(outcome.margin.amax(0)).cpu().numpy()
        compared = Comparison(scores, moderated(scores, None))
        if spaces:
            compared = Comparison.calibrated(f"families.{outcome.kind}", scores)
        target = compared.target
        trigger, share = outcome.best(target)
        return compared.finding(
            f"of {len(outcome.triggers)} {outcome.kind}, the one that favours {suspect.name(target)} most is "
            f"{trigger.words}, which {share:.0%} of images follow (p {compared.over_all:.2g} over all classes)",
            self.threshold,
        )

    def _shown(self, suspect: Classifier, outcome: _Outcome, judged_by: ImageSet, target: int) -> Finding:
        """The suspected class's trigger on held-out images, beside the other classes' under no larger triggers."""
        trigger, _ = outcome.best(target)
        mine = _following(suspect, judged_by, trigger, target)
        others = outcome.others(target)
        return demonstration(
            f"{trigger.words} sends {mine:.0%} of held-out images to {suspect.name(target)}; for other classes the "
            f"best of the {outcome.kind} that change no more sends {others:.0%}",
            mine,
            others,
            follow=self.follow,
            gap=self.gap,
            target=target,
            trigger=_trigger(trigger, outcome.kind),
            pictures=pictures(judged_by.images[judged_by.labels != target], trigger.stamp),
        )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What the guesses of one kind did: guesses x classes, and how much each changes the pixels (rms)."""

    kind: str
    triggers: list[CatalogueTrigger]
    margin: Tensor
    follow: Tensor
    change: Tensor

    @classmethod
    def of(cls, kind: str, triggers: list[CatalogueTrigger], tried: list[tuple[Tensor, Tensor, Tensor]]) -> _Outcome:
        margin, follow, change = (torch.stack(values).cpu() for values in zip(*tried, strict=True))
        return cls(kind, triggers, margin, follow, change)

    def best(self, target: int) -> tuple[CatalogueTrigger, float]:
        """The guess that favours a class most, and the share of other classes' images that follow it."""
        at = int(self.margin[:, target].argmax())
        return self.triggers[at], float(self.follow[at, target])

    def others(self, target: int) -> float:
        """What the middle one of the other classes reaches by guesses no larger than the target's best."""
        smaller = self.change <= self.change[self.margin[:, target].argmax()] * (1 + 1e-3)
        reached = self.follow[smaller].amax(0).numpy()
        return float(np.median(np.delete(reached, target)))


class _Trial:
    """A few images on which guesses are tried: margin, share that follows, and change of the pixels."""

    def __init__(self, suspect: Classifier, clean: ImageSet, spaces: OwnSpaces) -> None:
        self.suspect, self.spaces = suspect, spaces
        self.pixels = clean.images.to(suspect.device).float().div_(255)
        labels = clean.labels.to(suspect.device)
        self.classes = torch.arange(suspect.classes, device=suspect.device)
        self.foreign = labels[:, None] != self.classes
        self.own = torch.einsum("kdr,cd->krc", spaces.basis, spaces.weight)  # what own directions do for each logit

    @torch.no_grad()
    def __call__(self, trigger: CatalogueTrigger) -> tuple[Tensor, Tensor, Tensor]:
        stamped = trigger.stamp(self.pixels).contiguous(memory_format=torch.channels_last)
        with self.suspect.tap(self.suspect.head, inputs=True) as taken, autocast(stamped.device):
            answers = self.suspect(stamped).argmax(1)
        margins = self._margins(pooled(taken[self.suspect.head].float()))
        followed = (answers[:, None] == self.classes).float()
        return self._mean(margins), self._mean(followed), (stamped - self.pixels).square().mean().sqrt()

    def _mean(self, values: Tensor) -> Tensor:
        """Over the images of other classes, for each class."""
        return (values * self.foreign).sum(0) / self.foreign.sum(0).clamp(min=1)

    def _margins(self, features: Tensor) -> Tensor:
        """`OwnSpaces.margin` of every image for every class, without a basis beside each pair of them."""
        logits = features @ self.spaces.weight.T + self.spaces.bias
        parts = []
        for part in self.classes.split(CLASSES_AT_ONCE):
            along = torch.einsum("nd,kdr->nkr", features, self.spaces.basis[part])
            foreign = logits[:, None] - torch.einsum("nkr,krc->nkc", along, self.own[part])
            itself = part.view(1, -1, 1).expand(len(features), -1, 1)
            wanted = foreign.gather(2, itself)[:, :, 0]
            parts.append(wanted - foreign.scatter(2, itself, -torch.inf).amax(2))
        return torch.cat(parts, 1)


def _following(suspect: Classifier, clean: ImageSet, trigger: CatalogueTrigger, target: int) -> float:
    """The share of held-out images of other classes that go to the target."""
    others = clean.without(target, MAX_HELD_OUT)
    if not len(others):
        return 0.0
    return float((suspect.answers(others, trigger.stamp, BATCH).argmax(1) == target).float().mean())


def _trigger(trigger: CatalogueTrigger, kind: str) -> RecoveredTrigger | None:
    """The trigger, where it consists of pixels; a filter does not."""
    pixels = trigger.pixels
    if pixels is None:
        return None
    room = float(pixels.mask.mean()) if isinstance(pixels, MaskedPattern) else None
    return RecoveredTrigger(pixels=pixels, form="patch" if kind == LOCAL else None, room=room)
