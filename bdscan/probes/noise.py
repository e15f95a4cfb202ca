"""Disturbs all channels at once, a little, so that images turn into each class for reasons foreign to that class.

What it measures
    For every class one factor and one shift a channel is added to the outputs of all batch norms (convolutions where
    there are none), by hooks, in eval mode. It grows step by step along the gradient of the margin by which the class
    leads on clean images of the other classes, counted by those features only that lie outside the subspace which the
    class's own clean images span. The noise of all classes has equal length at every step, and stops growing when for
    the middle class few answers are still right: how much a net can bear is found out, not fixed beforehand. The score
    of a class is log(softplus(margin / usual)) there, `usual` being the median lead of the clean images' first logit.

Why it shows a backdoor
    A net that holds a backdoor has channels that wait for the trigger, and nudging them together releases it without
    any need to know what the trigger looks like: a patch, a blend, a warp, or another one for each image. In a clean
    net small noise moves images to a class only by making them resemble it, which the subspace takes out.

When it misleads
    Without that subspace the class that blurred images resemble by nature (frogs, cats) stands out on clean nets too.
    A trigger whose features were trained to equal those of the target hides in the subspace. An all-to-all backdoor
    raises all classes alike. Where features far outnumber the images of a class, much that is natural stays outside.
    Of more than a hundred classes only a hundred are tried: those with the largest margins, and others at random.

Reference
    Xu et al., NeurIPS 2024 (BAN), for the noise, which there is of fixed size and without target; Wu and Wang,
    NeurIPS 2021 (ANP). The subspace after arXiv 2512.08129 (CSO); the joint use is bdscan's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet, at_once
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier, pooled
from bdscan.net.fit import autocast
from bdscan.net.subspace import OwnSpaces
from bdscan.verdict.comparison import Comparison

MIN_IMAGES = 2  # a class and step, however many the classes
MAX_CLASSES = 100  # classes that are tried
GROWTH = 1.1  # of each step over the last, so that nets that bear much are done in time too
AVERAGED_STEPS = 3  # steps that the result is averaged over
SPREAD_IMAGES = 64  # to measure each channel's spread on


@dataclass(frozen=True)
class Noise(ImageProbe):
    """Targeted noise on the channels."""

    images: int = 120  # a step, shared by the classes: at ten, twelve each
    steps: int = 30  # at most, which is a length of 5; small CIFAR nets stop at about 20, a length of 2
    rate: float = 0.03  # length of the first step, in factors and in standard deviations of each channel
    left: float = 0.1  # accuracy left, for the middle class, when noise stops growing: at .05 clean nets break
    share: float = 0.98  # of the energy of a class's clean features that its subspace holds: 5 to 8 of 64 directions
    batch: int = 120  # images at once
    threshold: float = 0.01  # p over all classes (Holm) below which the class is suspect

    stage: ClassVar[Stage] = Stage.ACCUSES
    family: ClassVar[str] = "margin"  # it climbs the same margin, and errs where that errs
    reads: ClassVar[tuple[str, ...]] = ("margin",)
    statistics: ClassVar[tuple[str, ...]] = ("noise",)

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        suspect = case.suspect
        layers = _layers(suspect)
        spaces = case.own_spaces(share=self.share, batch=self.batch)
        if spaces is None or not layers:
            why = "most classes have fewer than five clean images" if layers else "the net has no maps with channels"
            yield Finding(level=Level.NOTE, message=f"no noise was tried: {why}")
            return
        margins, follow, length = self._grow(case, suspect, layers, spaces)
        scores = spaces.score(margins).cpu().numpy()
        compared = Comparison.calibrated("noise", scores)
        target = compared.target
        yield compared.finding(
            f"noise of length {length:.2g} on the channels gives {suspect.name(target)} a margin of "
            f"{margins[target]:.3g} by features that its own images lack, {margins.nanmedian():.3g} for the middle "
            f"class; {follow[target]:.0%} of images follow (p {compared.over_all:.2g} over all classes)",
            self.threshold,
            margins=margins.cpu().numpy(),
        )

    def _grow(
        self, case: ImageCase, suspect: Classifier, layers: Sequence[str], spaces: OwnSpaces
    ) -> tuple[Tensor, Tensor, float]:
        """Each class's margin and following at the noise where the middle class is reached, and that noise's length."""
        classes = _entrants(case, suspect, spaces)
        each = max(MIN_IMAGES, self.images // len(classes))
        noise = _Noise(suspect, case.clean, layers, len(classes))
        draw = _Draw(case.clean, classes, each, case.seed)
        trail: list[Tensor] = []  # steps of (margin, share that follows, accuracy left) a class
        for step in range(self.steps):
            case.progress(step, self.steps, "noise on channels")
            found = []
            for part in torch.arange(len(classes)).split(max(1, at_once(suspect.shape, self.batch) // each)):
                pixels, labels = draw(part, suspect.device)
                found.append(noise.push(pixels, labels, classes[part], part, spaces, self.rate * GROWTH**step))
            trail.append(torch.cat(found, dim=1))
            if (
                step + 1 >= AVERAGED_STEPS
                and float(torch.stack(trail[-AVERAGED_STEPS:]).mean(0)[2].median()) <= self.left
            ):
                break
        reached = torch.full((3, suspect.classes), torch.nan, device=suspect.device)
        reached[:, classes] = torch.stack(trail[-AVERAGED_STEPS:]).mean(0)
        return reached[0], reached[1], noise.length()


class _Draw:
    """Random images of other classes, so many for each class, and their labels."""

    def __init__(self, clean: ImageSet, classes: Tensor, each: int, seed: int) -> None:
        self.clean, self.classes, self.each = clean, classes, each
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, part: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        index = []
        for target in self.classes[part].tolist():
            others = (self.clean.labels != target).nonzero()[:, 0]
            index.append(others[torch.randint(len(others), (self.each,), generator=self.generator)])
        pixels = self.clean.images[torch.cat(index)].to(device).float().div_(255)
        labels = self.clean.labels[torch.cat(index)].to(device)
        return pixels.contiguous(memory_format=torch.channels_last), labels


class _Noise:
    """A factor and a shift for every channel of every layer, one set a class."""

    def __init__(self, suspect: Classifier, clean: ImageSet, layers: Sequence[str], sets: int) -> None:
        self.suspect, self.layers = suspect, layers
        pixels = clean.images[: at_once(suspect.shape, SPREAD_IMAGES)].to(suspect.device).float().div_(255)
        with torch.no_grad(), suspect.tap(*layers) as taken:
            suspect(pixels)
        self.spread = [taken[layer].float().std((0, 2, 3)) for layer in layers]
        self.sets = [torch.zeros(sets, 2, len(spread), device=suspect.device) for spread in self.spread]

    def push(
        self, pixels: Tensor, labels: Tensor, classes: Tensor, part: Tensor, spaces: OwnSpaces, rate: float
    ) -> Tensor:
        """One step for some classes; their margins, following and accuracy left before it (3 x classes)."""
        each = len(pixels) // len(part)
        targets = classes.repeat_interleave(each).to(pixels.device)
        noise = [values[part].requires_grad_(True) for values in self.sets]
        head = self.suspect.head
        with self._applied(noise, each), self.suspect.tap(head, inputs=True) as taken, autocast(pixels.device):
            answers = self.suspect(pixels).argmax(1)
        margin = spaces.margin(pooled(taken[head].float()), targets)
        slopes = torch.autograd.grad(margin.sum(), noise)
        steepness = torch.stack([slope.square().sum((1, 2)) for slope in slopes]).sum(0).sqrt().clamp(min=1e-12)
        for values, slope in zip(self.sets, slopes, strict=True):
            values[part] += rate * slope / steepness[:, None, None]
        seen_now = torch.stack([margin.detach(), (answers == targets).float(), (answers == labels).float()])
        return seen_now.view(3, -1, each).mean(2)

    def length(self) -> float:
        """Of the middle class's noise."""
        squares = torch.stack([values.square().sum((1, 2)) for values in self.sets]).sum(0)
        return float(squares.sqrt().median())

    def _applied(self, noise: Sequence[Tensor], each: int) -> AbstractContextManager[None]:
        """While it lasts, the layers put out noisy maps."""
        noise_of = dict(zip(self.layers, zip(noise, self.spread, strict=True), strict=True))

        def disturb(layer: str, _: nn.Module, __: object, maps: Tensor) -> Tensor:
            values, spread = noise_of[layer]
            factor, shift = values.repeat_interleave(each, 0).unbind(1)
            noisy = maps * (1 + factor[:, :, None, None]) + (shift * spread)[:, :, None, None]
            return noisy.to(maps.dtype)

        return self.suspect.hooked(self.layers, disturb)


def _layers(suspect: Classifier) -> tuple[str, ...]:
    """Batch norms, else convolutions; without one that is the head or runs twice with maps of different kinds."""
    maps = Counter(layer.name for layer in suspect.maps if layer.name != suspect.head)
    norms = tuple(name for name in maps if isinstance(suspect.module(name), nn.BatchNorm2d))
    return norms or tuple(name for name in maps if isinstance(suspect.module(name), nn.Conv2d))


def _entrants(case: ImageCase, suspect: Classifier, spaces: OwnSpaces) -> Tensor:
    """The classes to try: all with enough images or, of many, those with the largest margins and others at random."""
    known = spaces.covered.cpu().nonzero()[:, 0]
    if len(known) <= MAX_CLASSES:
        return known
    known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(case.seed))]
    for scores in case.scores_of(Noise.family):
        suspicion = torch.as_tensor(scores)[known].nan_to_num(-torch.inf)
        first = suspicion.argsort(descending=True, stable=True)[: MAX_CLASSES // 2]
        rest = torch.ones(len(known), dtype=torch.bool)
        rest[first] = False
        known = torch.cat([known[first], known[rest]])
    return known[:MAX_CLASSES].sort().values
