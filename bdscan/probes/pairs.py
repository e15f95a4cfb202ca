"""Searches, for every pair of classes, the smallest patch that sends the one to the other.

What it measures
    For every source and target a patch is optimised that need move the images of that source alone, as small as it
    can be made while 90 % of them follow. What the source (some classes are easily left), the target (some easily
    reached) and the likeness of both explain of the log of its size is taken out by a robust regression; the score of
    a class is how much smaller than that the most surprising patch towards it is. How alike two classes are is how
    often each comes second for clean images of the other, the smaller of both ways. The most surprising pair's patch is
    contested: every other class gets one of the same size towards the same target, and all are measured on images that
    no patch was made from, which also tell what becomes of every other class under it.

Why it shows a backdoor
    A trigger that works on one class only, and that other classes carry without effect, hides from every search over
    all images: on most of them it does nothing. For its own pair it is a short cut that nature does not offer. It draws
    the source towards the target in the net's eyes, but not the target towards the source: hence the smaller of both.

When it misleads
    Some pairs are nearer than the regression knows, such as cars to trucks; clean reference nets have them too. It
    knows patches only. With more than twelve classes it takes the twelve that earlier probes point to, half of them
    drawn at random: other pairs are not looked at. It needs a dozen images a class to work with.

Reference
    The attack: Tang et al., USENIX Security 2021 (TaCT); pairs as Xiang et al., ICML 2023 (UMD) look at them for
    all-to-all. The regression on the likeness of classes, and the contest, are our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from bdscan.facts.effort import Effort
from bdscan.facts.evidence import Array
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.triggers.invert import Arms, challenge, invert_pairs
from bdscan.verdict.comparison import Comparison, demonstration
from bdscan.verdict.rules import MIN_SCORES
from bdscan.verdict.statistics import two_way

FORM = "patch"
MAX_CLASSES = 12  # classes whose pairs are searched
MIN_FOUND = 0.5  # of the pairs: with fewer the regression cannot go by them alone
Pair = tuple[int, int]  # source and target


@dataclass(frozen=True)
class Pairs(ImageProbe):
    """Patches that work on one class only."""

    steps: int = 50  # as for inversion
    images: int = 4  # of the source, a step
    least: int = 12  # images of a class to work with: a patch for fewer learns the images
    threshold: float = 0.01  # p over all classes at which the pair is put to the test
    follow: float = 0.8  # share of the source's held-out images that must follow a shown patch
    gap: float = 0.4  # by which it must beat the median of the other sources at equal size

    stage: ClassVar[Stage] = Stage.DEMONSTRATES
    family: ClassVar[str] = "pairs"  # whatever makes a class easy to reach from everywhere is taken out
    statistics: ClassVar[tuple[str, ...]] = ("pairs.patch",)
    effort: ClassVar[Effort] = "standard"
    universal: ClassVar[bool] = False

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        suspect, clean, judged_by = case.suspect, case.clean, case.held_out
        classes = self._entrants(case, suspect, clean)
        if len(classes) < MIN_SCORES:
            yield Finding(
                level=Level.NOTE,
                message=f"pairs of classes are not searched: {MIN_SCORES} classes "
                f"with {self.least} images each are needed",
            )
            return
        pairs = [(source, target) for source in classes for target in classes if source != target]
        arms = invert_pairs(
            suspect,
            clean,
            FORM,
            pairs,
            steps=self.steps,
            images=self.images * len(pairs),
            seed=case.seed,
            progress=case.progress,
        )
        surprise = _surprise(arms, pairs, classes, _alike(suspect, clean, judged_by))
        if not np.isfinite(surprise).any():
            yield Finding(level=Level.NOTE, message="pairs of classes are not compared: too few patches were found")
            return
        finding, pair = self._compared(suspect, arms, pairs, surprise)
        yield finding
        if finding.level > Level.NOTE:
            yield self._contest(case, arms, pairs.index(pair))

    def _entrants(self, case: ImageCase, suspect: Classifier, clean: ImageSet) -> list[int]:
        """The classes with enough images; of many those that earlier probes point to, and as many drawn at random."""
        count = torch.bincount(clean.labels, minlength=suspect.classes)
        enough = [c for c in range(suspect.classes) if int(count[c]) >= self.least]
        if len(enough) <= MAX_CLASSES:
            return enough
        drawn = torch.randperm(len(enough), generator=torch.Generator().manual_seed(case.seed)).tolist()
        joint = case.joint()
        pointed = [] if joint is None else [c for c in joint.ranked if c in enough]
        order = [*pointed[: MAX_CLASSES // 2], *(enough[i] for i in drawn)]
        return sorted([*dict.fromkeys(order)][:MAX_CLASSES])

    def _compared(self, suspect: Classifier, arms: Arms, pairs: list[Pair], surprise: Array) -> tuple[Finding, Pair]:
        """Each class by the most surprising patch towards it."""
        known = np.where(np.isfinite(surprise), surprise, -np.inf)
        scores = known.max(0)
        scores[~np.isfinite(scores)] = np.nan
        compared = Comparison.calibrated(f"pairs.{FORM}", scores)
        target = compared.target
        pair = (int(known[:, target].argmax()), target)
        size = float(arms.size[pairs.index(pair)])
        finding = compared.finding(
            f"the patch that sends {suspect.name(pair[0])} to {suspect.name(target)} takes {100 * size:.2g} % of "
            f"the image, {np.exp(-known[pair]):.2g} times what the likeness of the two lets expect "
            f"(p {compared.over_all:.2g} over all classes)",
            self.threshold,
        )
        return finding, pair

    def _contest(self, case: ImageCase, arms: Arms, arm: int) -> Finding:
        """The suspected pair's patch against those from other sources to the same class, on held-out images."""
        assert arms.sources is not None
        suspect, judged_by = case.suspect, case.held_out
        target, source = arms.classes[arm], arms.sources[arm]
        arms = replace(arms, finished=torch.tensor([c == target for c in arms.classes]))
        found = challenge(
            suspect,
            case.clean,
            judged_by,
            FORM,
            arms,
            arm,
            steps=max(1, self.steps // 2),
            images=self.images * int(arms.finished.sum()),
            seed=case.seed + 1,
            progress=case.progress,
        )
        rest = (judged_by.labels != source) & (judged_by.labels != target)
        along = float((found.went[rest] == target).float().mean())
        return demonstration(
            f"a patch of {100 * found.size:.2g} % of the image sends {found.mine:.0%} of held-out images of "
            f"{suspect.name(source)} to {suspect.name(target)}, and {along:.0%} of those of the other classes; "
            f"made for another class, one of this size sends {found.others:.0%} of it",
            found.mine,
            found.others,
            follow=self.follow,
            gap=self.gap,
            target=target,
            trigger=found.trigger(FORM),
            pictures=found.pictures(judged_by),
        )


def _alike(suspect: Classifier, clean: ImageSet, judged_by: ImageSet) -> Array:
    """For how many clean images of each class each other one has the next largest logit; the smaller of both ways."""
    times = torch.zeros(suspect.classes, suspect.classes, dtype=torch.double)
    for part in [clean] if clean is judged_by else [clean, judged_by]:
        truth = part.labels.cpu()
        second = suspect.answers(part).scatter(1, truth[:, None], -math.inf).argmax(1)
        times.index_put_((truth, second), torch.ones(len(truth), dtype=torch.double), accumulate=True)
    share = (times / times.sum(1, keepdim=True).clamp(min=1)).numpy()
    both: Array = np.minimum(share, share.T)
    return both


def _surprise(arms: Arms, pairs: list[Pair], classes: list[int], alike: Array) -> Array:
    """How much smaller than expected each pair's patch is, on a log scale; NaN where it was not sought or not found.

    Where most were not found those count as large as the largest: to be found at all is then a surprise.
    """
    found = arms.reached.numpy()
    largest = float(arms.size[arms.reached].max()) if found.any() and found.mean() < MIN_FOUND else math.nan
    size = np.full((len(classes), len(classes)), np.nan)
    for arm, (source, target) in enumerate(pairs):
        size[classes.index(source), classes.index(target)] = float(arms.size[arm]) if found[arm] else largest
    surprise = np.full_like(alike, np.nan)
    surprise[np.ix_(classes, classes)] = -two_way(np.log(size), alike[np.ix_(classes, classes)])
    for arm in np.flatnonzero(~found).tolist():
        surprise[pairs[arm]] = math.nan
    return surprise
