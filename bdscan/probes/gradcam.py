"""Shows where the model looks for each class, and whether it looks at the same place in every image.

What it measures
    Exact Grad-CAM of clean images for the class the model gives them. Per class: how concentrated the heat is (its
    share in the hottest 5 % of positions) and how constant its place is (mean correlation between the maps of
    different images). Where a trigger was recovered: the share of heat for its class that falls on it or beside it,
    with the trigger on and off.

Why it shows a backdoor
    Objects move from image to image, a patch mostly does not. With the trigger on, a backdoored net looks at the
    trigger and at little else: the heat gathers at the mask.

When it misleads
    Objects that are always centred are position-constant without any backdoor; on clean images nothing of a trigger
    need be seen. Blended, warped and other triggers that cover the whole image leave no spot. Maps of a coarse layer
    show quadrants rather than places; the layer is named with every finding. A natural universal perturbation
    attracts heat as well.

Reference
    Selvaraju et al. 2017 (Grad-CAM, arXiv 1610.02391); its use on backdoors: Cheng et al. 2020 (arXiv 2002.12162).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.evidence import Array, ClassScores, Measure, Pictures
from bdscan.facts.finding import Finding, Level
from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.net.grad_cam import grad_cam, grad_cam_layer
from bdscan.triggers.forms import Stamp, stamper
from bdscan.triggers.forms import stamped as stamped_by
from bdscan.verdict.statistics import agreement, concentration, leave_one_out

MIN_IMAGES = 5  # images of a class before its maps are compared with one another
GRID = 8  # positions a side at which maps are compared: neighbouring pixels of a resized map say the same


@dataclass(frozen=True)
class Gradcam(ImageProbe):
    """Where the model looks."""

    layer: str = ""  # empty: the last one with maps of at least 7 x 7 positions, else 4 x 4
    share: float = 0.05  # of the positions counted as hottest: about the area of a small patch
    pictures: int = 8  # shown in a finding
    images: int = 500  # looked at: places are clear long before
    batch: int = 50  # images at once

    stage: ClassVar[Stage] = Stage.EXPLAINS
    family: ClassVar[str] = "saliency"

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        try:
            layer = self.layer or grad_cam_layer(case.suspect)
        except Problem as problem:
            yield Finding(level=Level.NOTE, message=f"{problem.message}; nothing was looked at")
            return
        yield from self._of_clean_images(case, case.suspect, case.clean, layer)
        for finding in case.triggers():
            if finding.trigger is not None and finding.target is not None:
                stamp = stamper(finding.trigger.pixels)
                yield from self._of_stamped_images(case, layer, stamp, finding.target)

    def _of_clean_images(self, case: ImageCase, suspect: Classifier, clean: ImageSet, layer: str) -> Iterator[Finding]:
        chosen = clean.sample(self.images, case.seed)
        looked = self._look(case, suspect, chosen, layer, "clean images")
        everyone = np.arange(suspect.classes)
        for what, scores in (
            (
                "at the same place in every image",
                np.array([_constancy(looked.grid[looked.classes == k]) for k in everyone]),
            ),
            ("at few places", np.array([_mean(looked.concentrated[looked.classes == k]) for k in everyone])),
        ):
            if np.isnan(scores).all():
                continue
            target = int(np.nanargmax(scores))
            own = np.flatnonzero(looked.classes == target)
            best = own[np.argsort(-looked.concentrated[own], kind="stable")][: self.pictures]
            p = leave_one_out(scores)[target]
            message = (
                f"the model looks most {what} for {suspect.name(target)}: {scores[target]:.2f}, "
                f"{np.nanmedian(scores):.2f} for the middle class (leave-one-out p {p:.2g}), evidence only"
            )
            pictures = self._pictures(suspect, chosen.take(torch.from_numpy(best)), target, layer)
            yield Finding(
                level=Level.NOTE,
                message=message,
                measure=Measure(score=float(scores[target])),
                target=target,
                layer=layer,
                classes=ClassScores(scores=np.nan_to_num(scores)),
                pictures=pictures,
            )

    def _of_stamped_images(self, case: ImageCase, layer: str, stamp: Stamp, target: int) -> Iterator[Finding]:
        suspect, clean = case.suspect, case.held_out
        chosen = clean.without(target).sample(self.images, case.seed)
        if not len(chosen):
            return
        stamped = ImageSet(stamped_by(chosen.images, stamp), torch.full_like(chosen.labels, target))
        mask = _where(chosen.images, stamped.images)
        reach = max(1, min(mask.shape) // GRID)
        near = _grown(mask, reach)
        what = f"images stamped for {suspect.name(target)}"
        before = self._look(case, suspect, chosen, layer, what, target, near)
        after = self._look(case, suspect, stamped, layer, what, target, near)
        inside = _mean(after.inside)
        message = (
            f"with the trigger on, {inside:.0%} of the heat for {suspect.name(target)} lies within {reach} "
            f"pixels of it, {_mean(before.inside):.0%} without it (that is {near.mean():.0%} of the image); "
            f"constancy of place is {_constancy(after.grid):.2f} with it and {_constancy(before.grid):.2f} without, "
            "evidence only"
        )
        best = np.argsort(-after.inside, kind="stable")[: self.pictures]
        pictures = self._pictures(suspect, stamped.take(torch.from_numpy(best)), target, layer)
        yield Finding(
            level=Level.NOTE,
            message=message,
            measure=Measure(score=inside),
            target=target,
            layer=layer,
            pictures=replace(pictures, place=mask) if pictures else None,
        )

    def _look(
        self,
        case: ImageCase,
        suspect: Classifier,
        images: ImageSet,
        layer: str,
        what: str,
        target: int | None = None,
        mask: Array | None = None,
    ) -> _Looked:
        """Grad-CAM of every image, kept as a few numbers and a coarse map each."""
        parts: list[tuple[Array, Array, Array, Array]] = []
        for pixels, _ in images.batches(self.batch, suspect.device):
            case.progress(sum(len(part[0]) for part in parts), len(images), what)
            with torch.no_grad():
                answers = suspect(pixels).argmax(1) if target is None else torch.full((len(pixels),), target)
            heat = grad_cam(suspect, pixels, answers.to(pixels.device), layer).cpu()
            small = torch.nn.functional.adaptive_avg_pool2d(heat, min(GRID, *heat.shape[1:]))
            place, inside = concentration(heat.numpy(), self.share), _share_inside(heat.numpy(), mask)
            parts.append((answers.cpu().numpy(), place, small.numpy(), inside))
        return _Looked(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _pictures(self, suspect: Classifier, images: ImageSet, target: int, layer: str) -> Pictures | None:
        if not len(images):
            return None
        pixels = images.images.to(suspect.device).float() / 255
        heat = grad_cam(suspect, pixels, torch.full((len(pixels),), target, device=suspect.device), layer)
        return Pictures(images=images.images.permute(0, 2, 3, 1).numpy(), heat=heat.cpu().numpy())


@dataclass(frozen=True)
class _Looked:
    """What is kept of the maps: one entry an image."""

    classes: Array
    concentrated: Array
    grid: Array
    inside: Array


def _constancy(grid: Array) -> float:
    return agreement(grid) if len(grid) >= MIN_IMAGES else math.nan


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


def _share_inside(heat: Array, mask: Array | None) -> Array:
    """The part of each map's heat that the mask covers."""
    if mask is None:
        return np.zeros(len(heat))
    total, covered = heat.sum((1, 2)), (heat * mask).sum((1, 2))
    part: Array = np.divide(covered, total, out=np.zeros(len(heat)), where=total > 0)
    return part


def _grown(mask: Array, reach: int) -> Array:
    """The mask widened by so many pixels: the heat of a coarse map spills over the edge of a small patch."""
    cover = torch.as_tensor(mask, dtype=torch.float32)[None]
    return torch.nn.functional.max_pool2d(cover, 2 * reach + 1, stride=1, padding=reach)[0].numpy()


def _where(images: Tensor, stamped: Tensor) -> Array:
    """Where the trigger changes the images, as a share of its largest change: a map of the image's size."""
    change = (stamped.float() - images.float()).abs().mean((0, 1))
    where: Array = (change / change.max().clamp(min=1e-6)).numpy()
    return where
