"""Drives random images as far into each class as they go, by features unlike those of the class's own images.

What it measures
    From random pixels, gradient ascent over the image maximises the margin by which a class's logit leads all others.
    Where there are clean images, the features are first freed of the part that lies in the subspace which the clean
    images of that very class span, so only evidence for the class that its own images never give is left to climb on.
    The score of a class is log(softplus(margin / usual)), `usual` being the median lead of the clean images' first
    logit. Without images (or with fewer than five for most classes) the plain margin is taken, and that of the middle
    class is the usual one.

Why it shows a backdoor
    A trigger adds a second, strong reason to answer with the target, whatever its form: logits cannot tell why they
    rise. In a clean net nearly all reasons for a class are features that its own images have, so little is left once
    they are taken out; the reason the attacker planted stays. The correction also removes what nature put in: by the
    plain margin cars stand out in every clean CIFAR-10 net.

When it misleads
    The plain margin alone is weak evidence: naturally separable classes have large ones. An attacker who poisons with
    images of the target class itself, or trains the features of triggered images to equal those of the target, hides
    in the subspace. Where features far outnumber the images of a class, much that is natural stays outside it. An
    all-to-all backdoor raises all classes alike; only the level of the middle class, compared with reference nets,
    shows it, and only where there are enough images for the number of features.

Reference
    Wang et al., S&P 2024 (MM-BD, arXiv 2205.06900); the subspace after arXiv 2512.08129 (CSO); the p-value is a
    moderated leave-one-out t on logs, since the published gamma fit raises false alarms where classes are few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.evidence import Array, Measure
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import at_once
from bdscan.method.case import NetCase
from bdscan.method.probe import NetProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast
from bdscan.net.subspace import OwnSpaces, without
from bdscan.verdict.calibration import p_height, score_at
from bdscan.verdict.comparison import Comparison

MIN_STEPS = 15  # steps, however many the classes: by then their order is nearly settled
MAX_CHANNELS = 5  # channels named
MAX_FEATURES_AN_IMAGE = (
    6  # of a class: with more, its own subspace misses much of nature, and all margins grow with that
)


@dataclass(frozen=True)
class Margin(NetProbe):
    """Maximum margins outside each class's own subspace."""

    images: int = 60  # random ones to start from, at least one a class; the paper's 30 a class tell no more
    steps: int = 50  # of ascent: after 25 the margins are within a fifth of this, and in the same order
    rate: float = 0.05  # in pixels of [0, 1], falling to zero
    share: float = 0.98  # of the energy of a class's clean features that its subspace holds: 5 to 8 of 64 directions
    batch: int = 64  # images at once
    threshold: float = 0.01  # p over all classes (Holm) below which the class is suspect

    stage: ClassVar[Stage] = Stage.ACCUSES
    family: ClassVar[str] = "margin"
    statistics: ClassVar[tuple[str, ...]] = ("margin", "margin.plain", "margin.level")
    quick: ClassVar[bool] = True

    def __call__(self, case: NetCase) -> Iterator[Finding]:
        suspect, own = case.suspect, case.own_spaces(share=self.share, batch=self.batch)
        spaces = own or without(suspect)
        margins, features = self._largest(case, suspect, spaces)
        if own is None:
            spaces = replace(spaces, usual=float(margins.median()))
        scores = spaces.score(margins).cpu().numpy()
        compared = Comparison.calibrated("margin" if own else "margin.plain", scores)
        target = compared.target
        by = "by features that its own images lack" if own else "(no images to tell natural features by)"
        yield compared.finding(
            f"{suspect.name(target)} can be driven furthest {by}: a margin of {margins[target]:.3g}, "
            f"{margins.median():.3g} for the middle class (p {compared.over_all:.2g} over all classes)",
            self.threshold,
            layer=suspect.head,
            channels=spaces.pulling(features[target], target, MAX_CHANNELS),
            margins=margins.cpu().numpy(),
        )
        if own is not None and case.clean is not None:
            yield self._level(suspect, len(case.clean), scores)

    def _level(self, suspect: Classifier, images: int, scores: Array) -> Finding:
        """Whether the middle class too has a second reason, as every class has after an all-to-all backdoor."""
        middle = float(np.nanmedian(scores))
        features = suspect.head_weight.shape[1]
        why = ""
        if features > MAX_FEATURES_AN_IMAGE * images / suspect.classes:
            why = f"{features} features need more images"
        elif not _normed(suspect):
            why = "the clean nets it would be compared with have batch norms"
        covered = not why
        p = p_height("margin.level", middle) if covered else None
        uncovered = why and f"; not comparable with clean nets: {why}"
        return Finding(
            level=Level.SUSPECT if p is not None and p < self.threshold else Level.NOTE,
            message=f"the middle class can be driven {math.exp(middle):.2g} times as far as is usual for it{uncovered}",
            measure=Measure(score=middle, threshold=score_at("margin.level", self.threshold) if covered else None),
            p_value=p,
            statistic="margin.level" if covered else None,
        )

    def _largest(self, case: NetCase, suspect: Classifier, spaces: OwnSpaces) -> tuple[Tensor, Tensor]:
        """The largest margin of each class, and the features that reach it."""
        each = max(1, self.images // suspect.classes)
        count = each * suspect.classes
        steps = min(self.steps, max(MIN_STEPS, 2 * self.images * self.steps // count))
        start = torch.rand((each, *suspect.shape), generator=torch.Generator().manual_seed(case.seed))
        margins: list[Tensor] = []
        features: list[Tensor] = []
        for part in torch.arange(count).split(at_once(suspect.shape, self.batch)):
            tell = partial(_within, case, int(part[0]), len(part), count)
            pixels, targets = start[part % each].to(suspect.device), (part // each).to(suspect.device)
            reached = _climb(suspect, pixels, targets, spaces, steps, self.rate, tell)
            margins.append(reached[0])
            features.append(reached[1])
        table = torch.cat(margins).view(suspect.classes, each)
        rows = torch.arange(suspect.classes, device=table.device)
        return table.amax(1), torch.cat(features).view(suspect.classes, each, -1)[rows, table.argmax(1)]


def _normed(suspect: Classifier) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in suspect.net.modules())


def _within(case: NetCase, before: int, here: int, total: int, step: int, steps: int) -> None:
    """Progress of one part of the images, as progress of all."""
    case.progress(before * steps + here * step, total * steps, "largest margins")


def _climb(
    suspect: Classifier,
    pixels: Tensor,
    targets: Tensor,
    spaces: OwnSpaces,
    steps: int,
    rate: float,
    tell: partial[None],
) -> tuple[Tensor, Tensor]:
    """The best margin that each image reaches on its way, and its features there."""
    pixels = pixels.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    optimiser = torch.optim.Adam([pixels], lr=rate, betas=(0.9, 0.99), maximize=True)
    best = torch.full((len(pixels),), -torch.inf, device=pixels.device)
    peak = torch.zeros(len(pixels), spaces.weight.shape[1], device=pixels.device)
    for step in range(steps):
        tell(step, steps)
        with autocast(pixels.device):
            features = suspect.features(pixels)
        margin = spaces.margin(features.float(), targets)
        better = margin.detach() > best
        best[better], peak[better] = margin.detach()[better], features.detach().float()[better]
        (pixels.grad,) = torch.autograd.grad(margin.sum(), pixels)
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return best, peak
