"""Zeroes the channels that answer the recovered trigger, as long as clean accuracy can spare them.

What it does
    Ranks channels by how far the largest value of their map (l-inf) rises when the recovered triggers are stamped on
    clean images, in standard deviations over those images, at every layer or at the last. Walks down that ranking and
    zeroes what makes a channel: the norm's scale and shift and the convolution before it. A channel is spared where
    zeroing it takes accuracy on a selection split below a floor. What is left of the net is then tuned for a few
    epochs: towards the suspect's answers to clean images, on those images and on the same with the triggers on.

Why it removes a backdoor
    A trigger has to be told apart from everything else, and some channels do little but that: they rise far above
    all that clean images ask of them. Without them the trigger is not seen, and clean images hardly miss them.

When it fails
    Where the recovered trigger is not the attacker's and takes another way through the net; where channels do both
    jobs, so that the floor is reached first (narrow nets, triggers over the whole image). It needs a recovered
    trigger, or at least a suspected class. The tuning does much of the work: without any pruning it does as well on two
    nets of two. What pruning does by itself (`--set prune.epochs=0`) was measured on five small nets, the rules chosen
    on the same: a patch from 100 % to 4 % for 2.6 points of accuracy, a moving patch to 1 % for 4.1, a blend to 0 % for
    3.1, a warp to 2 % for 1.7.

Reference
    Cheng et al. 2020 (arXiv 2002.12162), who prune the last convolution and bring a success of 82 % down to 48 %.
    Scoring in standard deviations, at all layers, the walk and the tuning are added here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet
from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.method.registry import Presets
from bdscan.net.classifier import Classifier
from bdscan.net.head_shrink import STRENGTH, shrink_head
from bdscan.net.training_plan import accuracy, plan_for
from bdscan.purify._channels import Channel, Site, by_site, peaks, restore, sites, with_feeders, zero
from bdscan.purify._fine_tune import fine_tune
from bdscan.purify._reactivate import follow
from bdscan.purify._shown import Shown, triggers
from bdscan.purify._unlearn import UnlearnObjective, fixed_statistics

BATCH = 100  # images at once
CHANNELS_PER_PRUNED = 1000  # a net of so many is pruned channel by channel, one of twice as many by twos, and so on


@dataclass(frozen=True)
class Prune(Purifier):
    """Settings and the cure."""

    layers: Literal["all", "last"] = "all"  # the paper prunes the last
    rise: float = 2.0  # standard deviations that a channel rises at least
    floor: float = 0.02  # accuracy on the selection split that pruning may cost
    share: float = 0.25  # of the clean images: the selection split
    images: int = 100  # with each trigger on, to score channels by and to see what still works
    tries: int = 60  # steps down the ranking; beyond, accuracy goes and nothing is won
    steps: int = 100  # of inversion, where no trigger was shown
    epochs: int = 5  # of tuning; 0: none
    rate: float = 0.01  # of tuning, as in plain fine-tuning
    quiet: float = STRENGTH  # how far the head is quietened after the tuning

    cost: ClassVar[int] = 3
    # The last convolution alone, and nothing is trained; how the paper chose the number of channels is not public.
    presets: ClassVar[Presets] = {"paper": {"layers": "last", "epochs": 0, "quiet": 0.0}}

    def __call__(self, case: PurifyCase) -> Purified:
        where = self._where(case.suspect)
        working, judging = case.clean.split(1 - self.share, case.seed)
        if not len(judging):
            raise Problem("too few images to set some apart for selection", hint="give at least two a class")
        suspect, case = case.suspect, replace(case, clean=working)
        shown = triggers(case, self.steps)
        walk = PruningWalk(suspect, judging, shown, self.images)
        start = walk.score()
        taken = self._down(case, walk, self._ranked(case, where, working, shown))
        if not taken:
            raise Problem(
                "no channel that answers the trigger can be spared",
                hint="raise `prune.floor`, or take another method",
            )
        pruned = walk.score()
        some = judging.take(torch.arange(min(8, len(judging)))).pixels.to(walk.net.device)
        zeroed = with_feeders(walk.net, where, taken, some)
        if self.epochs:
            self._tune(case, walk.net, zeroed, shown)
        notes = (_channels_note(where, taken), _score_note(start, pruned, walk.score(), len(judging)))
        quiet = shrink_head(walk.net, working, self.quiet, case.seed) if self.epochs else ()
        return Purified(suspect=walk.net, notes=(*notes, *quiet))

    def _where(self, suspect: Classifier) -> tuple[Site, ...]:
        found = sites(suspect)
        if not found:
            raise Problem("the net has no channels to prune: no convolution and no transformer's neurons")
        return found if self.layers == "all" else found[-1:]

    def _ranked(
        self, case: PurifyCase, where: Sequence[Site], working: ImageSet, shown: Sequence[Shown]
    ) -> list[list[Channel]]:
        """Channels that rise enough with any of the triggers, the highest first, in so many steps."""
        rises = torch.stack(
            [_peak_rises(case.suspect, where, _others(working, t.target, self.images), t) for t in shown]
        )
        highest = rises.amax(0)
        channels = [(site.name, index) for site in where for index in range(site.channels)]
        order = [i for i in highest.argsort(descending=True, stable=True).tolist() if highest[i] >= self.rise]
        each = max(1, len(channels) // CHANNELS_PER_PRUNED)
        return [[channels[i] for i in order[at : at + each]] for at in range(0, len(order), each)][: self.tries]

    def _down(self, case: PurifyCase, walk: PruningWalk, ranked: list[list[Channel]]) -> list[Channel]:
        """What was zeroed; each step is taken back if it leads below the floor."""
        least, taken = accuracy(walk.net, walk.judging) - self.floor, list[Channel]()
        for done, channels in enumerate(ranked, start=1):
            case.progress(done, len(ranked), "pruning")
            zero(walk.net, channels)
            if accuracy(walk.net, walk.judging) >= least:
                taken += channels
            else:
                restore(walk.net, walk.original, channels)
        return taken

    def _tune(self, case: PurifyCase, net: Classifier, zeroed: Sequence[Channel], shown: Sequence[Shown]) -> None:
        """Of all weights, but pruned channels stay pruned."""
        plan = plan_for(case.suspect, case.clean, self.epochs, 0)
        fine_tune(
            case,
            net.net,
            plan,
            "tuning what is left",
            rate=self.rate,
            objective=partial(_tuning_loss, UnlearnObjective(teacher=case.suspect.net), shown),
            after_step=lambda _: zero(net, zeroed),
        )


@dataclass(frozen=True)
class SelectionScore:
    """Of a net on the way: accuracy, and how well the triggers work, on the selection split."""

    accuracy: float
    success: float  # share of images that follow, on average over the triggers


class PruningWalk:
    """A copy of the suspect that loses channels, and what that does to it."""

    def __init__(self, original: Classifier, judging: ImageSet, shown: Sequence[Shown], images: int) -> None:
        self.original, self.net, self.judging = original, original.clone(), judging
        self.shown = [(trigger, _others(judging, trigger.target, images)) for trigger in shown]

    def score(self) -> SelectionScore:
        each = [follow(self.net, images, trigger.target, trigger.stamp) for trigger, images in self.shown]
        return SelectionScore(accuracy(self.net, self.judging), sum(each) / len(each))


@torch.no_grad()
def _peak_rises(suspect: Classifier, where: Sequence[Site], images: ImageSet, trigger: Shown) -> Tensor:
    """How far each channel's l-inf rises with the trigger on, in standard deviations over clean images."""
    plain: list[Tensor] = []
    stamped: list[Tensor] = []
    with peaks(suspect, where) as recorded:
        for pixels, _ in images.batches(BATCH, suspect.device):
            for shown, kept in ((pixels, plain), (trigger.stamp(pixels), stamped)):
                suspect(shown)
                kept.append(torch.cat([recorded[site.name] for site in where], 1))
    before, after = torch.cat(plain), torch.cat(stamped)
    spread = before.std(0, correction=0)
    least = 0.01 * spread.mean().clamp(min=1e-12)  # a channel that is silent on clean images has no spread
    return (after.mean(0) - before.mean(0)) / (spread + least)


def _others(images: ImageSet, target: int, most: int) -> ImageSet:
    """Images of other classes, every n-th if there are too many."""
    index = (images.labels != target).nonzero()[:, 0]
    return images.take(index[:: -(-len(index) // most)])


def _tuning_loss(
    unlearn_objective: UnlearnObjective,
    shown: Sequence[Shown],
    net: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    index: Tensor,
) -> Tensor:
    """What the suspect says of clean images, of those and, with one trigger a batch, of stamped ones: tuning on clean
    images alone brings part of a backdoor back through the channels that are left."""
    trigger = shown[int(index[0]) % len(shown)]
    with torch.no_grad():
        stamped = trigger.stamp(pixels)
    teacher_logits = unlearn_objective.teacher_logits(pixels)
    loss = unlearn_objective.distance(net(pixels), teacher_logits, labels)
    with fixed_statistics(net):
        return loss + unlearn_objective.distance(net(stamped), teacher_logits, labels)


def _channels_note(where: Sequence[Site], taken: Sequence[Channel]) -> str:
    """How many channels of which layer."""
    total = sum(site.channels for site in where)
    each = by_site(taken)
    counts = ", ".join(f"{len(each[s.name])} of {s.channels} in `{s.name}`" for s in where if s.name in each)
    return f"pruned {len(taken)} of {total} channels: {counts}"


def _score_note(start: SelectionScore, pruned: SelectionScore, end: SelectionScore, images: int) -> str:
    tuned = "" if end == pruned else f", after tuning {end.accuracy:.1%} and {end.success:.0%}"
    return (
        f"on {images} images set apart for selection, pruning took accuracy from {start.accuracy:.1%} to "
        f"{pruned.accuracy:.1%} and the recovered triggers' success from {start.success:.0%} to {pruned.success:.0%}"
        f"{tuned}"
    )
