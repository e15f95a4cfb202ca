"""Looks at the last layer alone: its rows, what they respond to, and how near each class lies.

What it measures
    `quiet`: how far each class's logit moves along directions that clean images hardly use, as the length of its row
    of the head after whitening by clean features, sqrt(w' (S + ridge)^-1 w); taken twice, with and without the
    class's own images in S, of which the smaller lead over the middle class counts. Needs clean images.
    `shift`: the smallest change of the features that turns clean images into each class, with the changed features
    kept between zero and 1.5 times the clean maximum where they come from a ReLU. Without images it starts from the
    features that batch norm implies, where batch norm and ReLU come right before the head.
    Rows: norm, mean of the largest 1 % of weights, largest and smallest weight, bias, mean cosine to the other rows.
    Each is given as a leave-one-out p-value (against Student's t) and a robust z per class.

Why it shows a backdoor
    A trigger drives the features somewhere clean images do not go, and the target's row has learnt to answer there.
    Weight decay erases what a row has no use for, so in a clean net little is left in quiet directions. Whitening
    takes out what nature put in: that some classes lie near one another or spread widely.

When it misleads
    `shift` and the rows are evidence only: in clean nets too some class is by nature the nearest (cats, birds) or has
    the largest row (cars). `quiet` sees nothing special in an all-to-all backdoor, since all rows change, and can be
    evaded by training a trigger's features to lie among those of the target's clean images; some triggers over the
    whole image do so unasked. A net that was trained briefly still has noise in every quiet direction. With few images
    for its features a wide head is mostly guessed to be quiet (a clean ResNet-18 with 512 features and 102 images came
    to p = 0.001): below one and a half images a feature, fewer than any net it was calibrated on had, `quiet` is
    evidence only as well.

Reference
    Latent shift: Iwahana et al. 2025 (arXiv 2511.08944). Rows: Fields et al. 2021 and the weight-analysis entries of
    the TrojAI rounds. `quiet` is bdscan's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.evidence import Array, ClassScores, Measure
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import NetCase
from bdscan.method.probe import NetProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.net.latent import implied_features, smallest_shift
from bdscan.verdict.comparison import Comparison
from bdscan.verdict.statistics import leave_one_out, robust_z

MAX_CHANNELS = 5  # channels named in a finding
MAX_PRODUCT = 8e6  # numbers in the largest product of a step of the latent shift: a second or two for all steps
# Clean ones: with fewer most directions are quiet only because nobody went there.
MIN_IMAGES_A_FEATURE = 1.5
MAX_CLASSES = 300  # classes for which the latent shift is worth its time: it grows with the square of their number


@dataclass(frozen=True)
class Head(NetProbe):
    """Geometry of the last layer."""

    ridge: float = 0.01  # of the mean feature variance: the best of .001 to .1 at telling small CIFAR nets apart
    margin: float = 0.0  # logits by which a shifted feature must lead: 0 is the boundary itself
    headroom: float = 1.5  # times the clean maximum of each feature: what a trigger may be able to reach
    sources: int = 16  # class means to shift from, where there are more classes
    steps: int = 300  # of the dual ascent: lengths are then right to about 1 %
    batch: int = 250  # images at once
    threshold: float = 0.01  # p of `quiet` over all classes (Holm) below which a class is suspect

    stage: ClassVar[Stage] = Stage.ACCUSES
    family: ClassVar[str] = "head"
    statistics: ClassVar[tuple[str, ...]] = ("head.quiet",)
    quick: ClassVar[bool] = True

    def __call__(self, case: NetCase) -> Iterator[Finding]:
        suspect, clean = case.suspect, case.clean
        weight, bias = suspect.head_weight.float(), suspect.head_bias.float()
        weight = weight - weight.mean(0)  # softmax sees differences only
        yield from _rows(suspect, weight, bias)
        if clean is None:
            yield self._shift_without_images(case)
            return
        features, labels = self._features(case, suspect, clean)
        yield _quiet(suspect, weight, features, labels, self.ridge, self.threshold)
        if suspect.classes <= MAX_CLASSES:
            present = labels.unique()
            means = torch.stack([features[labels == label].mean(0) for label in present])
            ceiling = self.headroom * features.amax(0) if bool((features >= 0).all()) else None
            yield self._shift(case, suspect, means, present, ceiling)

    def _shift_without_images(self, case: NetCase) -> Finding:
        """From the features that batch norm implies."""
        suspect, implied = case.suspect, implied_features(case.suspect)
        if implied is None or suspect.classes > MAX_CLASSES:
            message = "no latent shift: there are no clean images, and no batch norm tells what the last layer sees"
            return Finding(level=Level.NOTE, message=message, layer=suspect.head)
        answered = suspect.head_weight.float() @ implied[0] + suspect.head_bias.float()
        return self._shift(case, suspect, implied[0][None], answered.argmax()[None], implied[1])

    def _features(self, case: NetCase, suspect: Classifier, clean: ImageSet) -> tuple[Tensor, Tensor]:
        taken: list[Tensor] = []
        labels: list[Tensor] = []
        with torch.no_grad():
            for pixels, truth in clean.batches(self.batch, suspect.device):
                case.progress(sum(map(len, taken)), len(clean), "features")
                taken.append(suspect.features(pixels).float())
                labels.append(truth)
        return torch.cat(taken), torch.cat(labels)

    def _shift(
        self, case: NetCase, suspect: Classifier, means: Tensor, origin: Tensor, ceiling: Tensor | None
    ) -> Finding:
        """How far it is to each class from the middle of the others."""
        generator = torch.Generator().manual_seed(case.seed)
        fit = int(MAX_PRODUCT / (suspect.classes**2 * means.shape[1]))
        drawn = torch.randperm(len(means), generator=generator)[: max(1, min(self.sources, fit))]
        means, origin = means[drawn], origin.to(means.device)[drawn]
        case.progress(0, 1, "latent shift")
        weight, bias = suspect.head_weight.float(), suspect.head_bias.float()
        shifts, reached = smallest_shift(means, weight, bias, ceiling=ceiling, margin=self.margin, steps=self.steps)
        lengths = shifts.norm(dim=2)
        longest = lengths[reached].max() if bool(reached.any()) else lengths.max()
        lengths = torch.where(reached, lengths, longest)  # out of reach is at least as far as anything in reach
        foreign = origin[:, None] != torch.arange(suspect.classes, device=origin.device)
        lengths = lengths.masked_fill(~foreign, math.nan).nanmedian(0).values.nan_to_num(float(longest))
        scores = _array(lengths)
        target = int(scores.argmin())
        channels = shifts[:, target].abs().mean(0).topk(min(MAX_CHANNELS, means.shape[1])).indices
        p = leave_one_out(-scores)[target]
        message = (
            f"the nearest class in latent space is {suspect.name(target)}: the median shift is {scores[target]:.3g}, "
            f"{np.median(scores):.3g} for the middle class (leave-one-out p {p:.2g}), evidence only"
        )
        return _note(suspect, message, scores, target, channels)


def _quiet(
    suspect: Classifier, weight: Tensor, features: Tensor, labels: Tensor, ridge: float, threshold: float
) -> Finding:
    """Each row's length, counted by how little clean features vary in its direction."""
    rows, exact = weight.double(), features.double()
    answers = _whitened(rows, exact, labels, ridge)
    pooled = _whitened(rows, exact, torch.full_like(labels, -1), ridge)  # nothing is left out
    inner, outer = _array(pooled.sum(1).clamp(min=1e-12).sqrt()), _array(answers.sum(1).clamp(min=1e-12).sqrt())
    # Nature makes a clean class stand out by one yardstick or the other, hardly ever by both: the smaller lead counts.
    scores = np.minimum(np.log(inner / np.median(inner)), np.log(outer / np.median(outer)))
    compared = Comparison.calibrated("head.quiet", scores)
    target = compared.target
    message = (
        f"{suspect.name(target)} answers most to directions that clean images hardly use, "
        f"{math.exp(scores[target]):.2f} times as much as the middle class"
    )
    if len(features) < MIN_IMAGES_A_FEATURE * features.shape[1]:
        few = f"evidence only, since {len(features)} images are few for {features.shape[1]} features"
        return _note(suspect, f"{message} ({few})", scores, target)
    channels = answers[target].topk(min(MAX_CHANNELS, answers.shape[1])).indices
    return compared.finding(message, threshold, layer=suspect.head, channels=tuple(channels.tolist()))


def _whitened(rows: Tensor, features: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """w * (S + ridge)^-1 w for each row, S the covariance of the other classes' images: rows x channels.

    One factorisation serves all rows: a class's images are taken out of the sums by the Woodbury identity.
    """
    count, centre = len(features), features.mean(0)
    off = features - centre
    floor = ridge * off.square().mean().clamp(min=1e-12) * torch.eye(features.shape[1]).to(off)
    factor = torch.linalg.cholesky(off.T @ off + count * floor)
    solved_rows, solved_off = torch.cholesky_solve(rows.T, factor).T, torch.cholesky_solve(off.T, factor).T
    answers = torch.empty_like(rows)
    for k, row in enumerate(rows):
        own = labels == k
        others = count - int(own.sum())
        if others < 2:
            own, others = torch.zeros_like(own), count
        out, solved = off[own], solved_off[own]
        shift = out.sum(0, keepdim=True), solved.sum(0, keepdim=True)  # without the class, the mean is another
        out, solved = torch.cat([out, shift[0] / others**0.5]), torch.cat([solved, shift[1] / others**0.5])
        left = torch.eye(len(out)).to(off) - out @ solved.T
        answers[k] = others * row * (solved_rows[k] + torch.linalg.solve(left, out @ solved_rows[k]) @ solved)
    return answers


def _rows(suspect: Classifier, weight: Tensor, bias: Tensor) -> Iterator[Finding]:
    top = max(1, round(0.01 * weight.shape[1]))
    directions = torch.nn.functional.normalize(weight, dim=1)
    alike = (directions @ directions.T).sum(1).sub(1) / max(1, len(weight) - 1)
    looked_at = {
        "norm": weight.norm(dim=1),
        "mean of the largest 1 %": weight.topk(top, 1).values.mean(1),
        "largest weight": weight.amax(1),
        "depth of the smallest weight": -weight.amin(1),
        "bias": bias,
        "mean cosine to the others": alike,
    }
    if top == 1:
        del looked_at["mean of the largest 1 %"]  # the same number
    for what, values in looked_at.items():
        scores = _array(values)
        z = robust_z(scores)
        target = int(z.argmax())
        message = (
            f"{what}, of the last layer's rows: {suspect.name(target)} is highest (robust z {z[target]:.1f}, "
            f"leave-one-out p {leave_one_out(scores)[target]:.2g}), evidence only"
        )
        yield _note(suspect, message, scores, target)


def _note(suspect: Classifier, message: str, scores: Array, target: int, channels: Tensor | None = None) -> Finding:
    return Finding(
        level=Level.NOTE,
        message=message,
        measure=Measure(score=float(scores[target])),
        target=target,
        layer=suspect.head,
        channels=tuple(channels.tolist()) if channels is not None else (),
        classes=ClassScores(scores=scores),
    )


def _array(values: Tensor) -> Array:
    found: Array = values.detach().double().cpu().numpy()
    return found
