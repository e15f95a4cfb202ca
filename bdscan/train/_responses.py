"""What a finished net makes of each image of its training data, and how the image looks before any class shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier, Normalised, pooled
from bdscan.train._stages import EVALUATION_BATCH, in_use

EARLY_FRACTION = 6  # the early layer lies a sixth of the way through those that have maps
GRID = 8  # places a side at which pixels are summed up


@dataclass(frozen=True, eq=False)
class Responses:
    """One row an image, in the order of the data."""

    features: Tensor  # what the head takes
    logits: Tensor
    appearances: tuple[Tensor, ...]  # statistics of its pixels, and of an early layer's maps

    def runners_up(self, label: int, among: Tensor) -> Tensor:
        """The class that the net would name if not this one, for each of these images."""
        others = self.logits[among]  # a copy
        others[:, label] = -torch.inf
        return others.argmax(1)


def with_known_head(net: Normalised, data: ImageSet, classes: int) -> Classifier:
    """The net as a classifier whose head is known; raises `Problem` where it has none."""
    suspect = Classifier(net, cast(tuple[int, int, int], tuple(data.images.shape[1:])), classes)
    try:
        suspect.head  # noqa: B018 - it is looked for here
    except Problem as problem:
        raise Problem(problem.message, hint="`--set abl.reviews=0` trains it without the review") from None
    return suspect


def responses(net: Normalised, data: ImageSet, classes: int) -> Responses:
    """To all images as they are, not augmented."""
    features, logits, pixel, early_maps = [], [], [], []
    with in_use(net) as device:
        suspect = with_known_head(net, data, classes)
        early = [layer.name for layer in suspect.maps][: len(suspect.maps) // EARLY_FRACTION + 1][-1:]
        with suspect.tap(suspect.head, inputs=True) as head_inputs, suspect.tap(*early) as maps:
            for pixels, _ in data.batches(EVALUATION_BATCH, device):
                logits.append(net(pixels).float().cpu())
                features.append(pooled(head_inputs[suspect.head].float()).cpu())
                pixel.append(_pixel_statistics(pixels).cpu())
                if early:
                    early_maps.append(_channel_statistics(maps[early[0]].float()).cpu())
    appearances = tuple(torch.cat(batches) for batches in (pixel, early_maps) if batches)
    return Responses(torch.cat(features), torch.cat(logits), appearances)


def _pixel_statistics(pixels: Tensor) -> Tensor:
    """The colours and the detail of each place: what is always put in the same place shows."""
    detail = (pixels - F.avg_pool2d(pixels, 3, 1, 1)).abs()
    return torch.cat([F.adaptive_avg_pool2d(each, GRID).flatten(1) for each in (pixels, detail)], dim=1)


def _channel_statistics(maps: Tensor) -> Tensor:
    """The mean, the largest and the deviation of each channel: what is put anywhere shows, too."""
    positions = maps.flatten(2)
    return torch.cat([positions.mean(2), positions.amax(2), positions.std(2)], dim=1)
