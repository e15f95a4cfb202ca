"""Measures every channel's activation by its largest value, its mean and its root mean square.

What it measures
    For every activation (or norm, where activations are no modules of their own; their negative part is cut, as the
    ReLU behind them does): the l-inf, l1 and l2 of each channel's map, l1 and l2 divided by the map's size so that
    all three read as activations. Over clean images: which channels peak far above their own habit, more so than
    the rest of their layer (robust z of log peak over mean l-inf), and which
    class the model gives when such a channel is held at its peak. Where a trigger was recovered: by how many standard
    deviations (over clean images) each channel rises in each of the three when the same images are stamped, which
    channels rise most, and what is left of the trigger when they are silenced. Where triggers of one form were found
    for several classes, the score of a class is the log of how far its own lifts the l-inf of some channel of the last
    layer.

Why it shows a backdoor
    A trigger is small: it lights a few positions strongly, which the largest value of a map shows and its mean hides.
    So the channels that carry a patch rise more in l-inf than in l1 or l2. And of all classes' smallest triggers the
    attacker's, though it takes the least room, lifts some channel furthest: the net was taught to answer it.

When it misleads
    On clean images no trigger is there to be seen, and every net has channels with high peaks: what stands out there
    is evidence only. A trigger over the whole image moves l1 and l2 just as far. Natural features are also read from
    few positions (a bird's eye), so a rise in l-inf alone is no proof.

Reference
    Cheng et al. 2020 (arXiv 2002.12162). Holding a channel at its peak: after the stimulation of Liu et al. 2019 (ABS).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.evidence import Array, ChannelNorms, Measure, RecoveredTrigger
from bdscan.facts.finding import Finding, Level
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.activations import Tally, altered, measured, worth_measuring
from bdscan.net.classifier import Classifier
from bdscan.triggers.forms import FORMS, Stamp, stamper
from bdscan.verdict.comparison import Comparison
from bdscan.verdict.statistics import robust_z

LINF, L1, L2 = 0, 1, 2  # columns of a tally
LEAST_RISE = 0.01  # standard deviations: less is none


@dataclass(frozen=True)
class Linf(ImageProbe):
    """Peaks of channels."""

    layer: str = ""  # empty: all that are worth measuring
    threshold: float = 3.5  # robust z above which a channel's peak stands out (Iglewicz and Hoaglin 1993)
    channels: int = 12  # that stand out most, over all layers: held at their peak to see which class they push to
    images: int = 64  # on which channels are held or silenced
    batch: int = 50  # images at once

    level: float = 0.01  # p over all classes below which a class is suspect by what its own trigger lifts

    stage: ClassVar[Stage] = Stage.EXPLAINS
    family: ClassVar[str] = "activation"
    statistics: ClassVar[tuple[str, ...]] = tuple(f"linf.{form}" for form in FORMS)

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        suspect, clean = case.suspect, case.clean
        layers = self._layers(suspect)
        if not layers:
            yield Finding(level=Level.NOTE, message="the net has no layer of maps: nothing was measured")
            return
        tallies = self._over_clean_images(case, suspect, clean, layers)
        yield from self._standing_out(case, suspect, clean, tallies)
        for form, triggers in case.triggers_of_classes():
            yield self._compared(case, form, triggers, layers[-1])
        for finding in case.triggers():
            if finding.trigger is not None and finding.target is not None:
                stamp = stamper(finding.trigger.pixels)
                yield from self._with_trigger(case, layers, stamp, finding.target)

    def _layers(self, suspect: Classifier) -> tuple[str, ...]:
        if not self.layer:
            return worth_measuring(suspect)
        if self.layer not in {layer.name for layer in suspect.maps}:
            raise Problem(f"the net has no layer of maps called `{self.layer}`", hint="leave it out", status=USAGE)
        return (self.layer,)

    def _over_clean_images(
        self, case: ImageCase, suspect: Classifier, clean: ImageSet, layers: tuple[str, ...]
    ) -> dict[str, Tally]:
        tallies = {layer: Tally() for layer in layers}
        done = 0
        with torch.no_grad(), measured(suspect, layers) as norms_now:
            for pixels, _ in clean.batches(self.batch, suspect.device):
                case.progress(done, len(clean), "clean images")
                suspect(pixels)
                done += len(pixels)
                for layer, tally in tallies.items():
                    tally.add(norms_now[layer])
        return tallies

    def _standing_out(
        self, case: ImageCase, suspect: Classifier, clean: ImageSet, tallies: dict[str, Tally]
    ) -> Iterator[Finding]:
        """One finding a layer: channels whose peak is far above what they usually reach, compared with their layer."""
        z = {layer: _rarity(tally) for layer, tally in tallies.items()}
        loudest = sorted(((z[layer][c], layer, c) for layer in z for c in range(len(z[layer]))), reverse=True)
        tried = {(layer, c) for value, layer, c in loudest[: self.channels] if value > self.threshold}
        pixels = clean.sample(self.images, case.seed).pixels.to(suspect.device)
        for number, (layer, tally) in enumerate(tallies.items()):
            case.progress(number, len(tallies), layer)
            ranked = np.argsort(-z[layer], kind="stable")
            outside = tuple(int(c) for c in ranked if z[layer][c] > self.threshold)
            message = f"`{layer}`: {len(outside)} of {len(ranked)} channels peak far above their habit"
            target = None
            if outside and (layer, outside[0]) in tried:
                share, target = _held(suspect, pixels, layer, outside[0], float(tally.peak[outside[0], LINF]))
                message += (
                    f"; channel {outside[0]}, held at its peak, adds {share:.0%} of images to {suspect.name(target)}"
                )
            yield Finding(
                level=Level.NOTE,
                message=f"{message}, evidence only",
                measure=Measure(score=float(z[layer].max()), threshold=self.threshold),
                target=target,
                layer=layer,
                channels=outside,
                norms=ChannelNorms(norms=tally.mean),
            )

    def _compared(self, case: ImageCase, form: str, triggers: Mapping[int, RecoveredTrigger], layer: str) -> Finding:
        """How far each class's own trigger lifts a channel, and which class's lifts one furthest."""
        suspect, some = case.suspect, case.held_out.sample(self.images, case.seed)
        scores, highest = np.full(suspect.classes, np.nan), np.zeros(suspect.classes, dtype=int)
        for target, trigger in triggers.items():
            chosen = some.without(target)
            if len(chosen):
                _, rises = self._risen(case, chosen, stamper(trigger.pixels), (layer,), f"`{form}` triggers")
                rise = rises[layer][:, LINF]
                scores[target], highest[target] = math.log(max(float(rise.max()), LEAST_RISE)), rise.argmax()
        compared = Comparison.calibrated(f"linf.{form}", scores)
        target = compared.target
        return compared.finding(
            f"of the classes' own `{form}` triggers that of {suspect.name(target)} lifts a channel of `{layer}` "
            f"furthest: by {math.exp(scores[target]):.2g} standard deviations in l-inf, the middle one "
            f"by {math.exp(float(np.nanmedian(scores))):.2g} (p {compared.over_all:.2g} over all classes)",
            self.level,
            layer=layer,
            channels=(int(highest[target]),),
        )

    def _risen(
        self, case: ImageCase, images: ImageSet, stamp: Stamp, layers: tuple[str, ...], what: str
    ) -> tuple[dict[str, Tally], dict[str, Array]]:
        """The channels of stamped images, and how far they rise over those of the same images as they are."""
        plain, stamped = {layer: Tally() for layer in layers}, {layer: Tally() for layer in layers}
        done = 0
        with torch.no_grad(), measured(case.suspect, layers) as norms_now:
            for pixels, _ in images.batches(self.batch, case.suspect.device):
                case.progress(done, len(images), what)
                done += len(pixels)
                for tallies, shown in ((plain, pixels), (stamped, stamp(pixels))):
                    case.suspect(shown)
                    for layer in layers:
                        tallies[layer].add(norms_now[layer])
        return stamped, {layer: _rise(plain[layer], stamped[layer]) for layer in layers}

    def _with_trigger(self, case: ImageCase, layers: tuple[str, ...], stamp: Stamp, target: int) -> Iterator[Finding]:
        """How far each channel rises when the trigger is on, in standard deviations over clean images."""
        suspect = case.suspect
        chosen = case.held_out.without(target)
        if not len(chosen):
            return
        stamped, rise = self._risen(case, chosen, stamp, layers, f"images stamped for {suspect.name(target)}")
        loudest = max(rise, key=lambda name: float(rise[name][:, LINF].max()))
        highest, last = rise[loudest].max(0), layers[-1]  # the paper prunes in the last layer of maps
        ranked = np.argsort(-rise[last][:, LINF], kind="stable")
        channels = tuple(int(c) for c in ranked if rise[last][c, LINF] > rise[last][:, LINF].max() / 2)
        some = chosen.sample(self.images, case.seed)
        before, after, kept = _silenced(suspect, stamp, some, last, channels, target)
        message = (
            f"with the trigger on, channels of `{loudest}` rise by up to {highest[LINF]:.1f} standard deviations "
            f"in l-inf, {highest[L1]:.1f} in l1 and {highest[L2]:.1f} in l2; silencing the {len(channels)} that "
            f"rise most in `{last}` takes {suspect.name(target)} from {before:.0%} to {after:.0%} and leaves "
            f"{kept:.0%} of the other answers as they were, evidence only"
        )
        yield Finding(
            level=Level.NOTE,
            message=message,
            measure=Measure(score=float(highest[LINF])),
            target=target,
            layer=last,
            channels=channels,
            norms=ChannelNorms(norms=stamped[last].mean, rise=rise[last]),
        )


def _rarity(tally: Tally) -> Array:
    """The robust z, over the channels of a layer, of a channel's peak as a multiple of its usual l-inf."""
    usual, peak = tally.mean[:, LINF], tally.peak[:, LINF]
    least = 1e-3 * max(float(usual.mean()), 1e-12)  # a channel that is all but dead has no habit
    return robust_z(np.log((peak + least) / (usual + least)))


def _rise(plain: Tally, stamped: Tally) -> Array:
    least = 1e-3 * plain.mean.mean(0).clip(min=1e-12)
    rise: Array = (stamped.mean - plain.mean) / (plain.spread + least)
    return rise


def _held(suspect: Classifier, pixels: Tensor, layer: str, channel: int, value: float) -> tuple[float, int]:
    """By how much the share of one class grows while the channel holds a value everywhere, and which class it is."""
    with torch.no_grad():
        before = suspect(pixels).argmax(1).bincount(minlength=suspect.classes)
        with altered(suspect, layer, (channel,), value):
            after = suspect(pixels).argmax(1).bincount(minlength=suspect.classes)
    gain = (after - before) / len(pixels)
    return float(gain.max()), int(gain.argmax())


def _silenced(
    suspect: Classifier, stamp: Stamp, images: ImageSet, layer: str, channels: tuple[int, ...], target: int
) -> tuple[float, float, float]:
    """The trigger's success before and after, and the share of clean answers that stay."""
    pixels = images.pixels.to(suspect.device)
    with torch.no_grad():
        answers, before = suspect(pixels).argmax(1), suspect(stamp(pixels)).argmax(1) == target
        with altered(suspect, layer, channels, 0.0):
            stay, after = suspect(pixels).argmax(1) == answers, suspect(stamp(pixels)).argmax(1) == target
    return float(before.float().mean()), float(after.float().mean()), float(stay.float().mean())
