"""The review of a finished net: whether it knows one class by two different things."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import Array, p_measure
from bdscan.facts.finding import Finding, Level
from bdscan.train._bimodality import ClassScatter, bimodality, confusion
from bdscan.train._responses import Responses
from bdscan.verdict.calibration import Spread, moderated

MIN_IMAGES = 40  # of a class: with fewer, the directions found are those of chance
CLEAR_RATIO = 2  # as rarely must one part be confused with other classes as the other part, or it says nothing
VIEWS = 2  # of the features: in units of what other classes vary in, and as they are
# How far apart the gains of clean classes lie: 0.03 and 0.04 in eight clean CIFAR-10 nets, 0.075 in the widest of them.
CLEAN_GAINS = Spread(sd=0.08, freedom=8)


@dataclass(frozen=True, eq=False)
class ClassSplit:
    """How far each class falls into two parts, and who belongs to the part that is out of place in the worst one."""

    gains: Tensor  # views x classes: what two parts explain better than one, in nats an image
    member: Tensor  # of each image, how probably it is of the part that is out of place, in the most conspicuous class

    @cached_property
    def p_values(self) -> Array:
        """views x classes; 1 for a class with too few images, which is not to be named."""
        compared = np.stack([moderated(row, CLEAN_GAINS) for row in self.gains.numpy()])
        return np.where(np.isnan(compared), 1.0, compared)

    @property
    def target(self) -> int:
        """The most conspicuous class."""
        return int(self.p_values.min(0).argmin())

    @property
    def view(self) -> int:
        """In which it is so."""
        return int(self.p_values[:, self.target].argmin())

    @property
    def p_value(self) -> float:
        """Of the most conspicuous class, corrected for the number of classes and views."""
        return min(1.0, float(self.p_values.min()) * self.p_values.size)

    @property
    def part(self) -> Tensor:
        """Bool, one an image."""
        return self.member > 0.5

    def evidence(self, threshold: float, name: str) -> Finding:
        """Whether one class stands out; `name` is that of the most conspicuous."""
        row = self.gains[self.view].numpy()
        gain, others = row[self.target], float(np.nanmax(np.delete(row, self.target), initial=0.0))
        numbers = f"which explain {gain:.2f} nats an image more than one, in other classes at most {others:.2f}"
        if self.p_value > threshold:
            message = f"nor does the trained net know one class by two different things ({name} is the nearest to that)"
            return Finding(
                level=Level.NOTE, message=message, measure=p_measure(self.p_value, threshold), p_value=self.p_value
            )
        count = int(self.part.sum())
        return Finding(
            level=Level.SUSPECT,
            message=f"the trained net knows {name} by two different things, {numbers}: by one of them {count} images",
            target=self.target,
            measure=p_measure(self.p_value, threshold),
            p_value=self.p_value,
        )


def split_classes(responses: Responses, labels: Tensor, classes: int, among: Tensor) -> ClassSplit:
    """Sets the classes against one another by how far the features of each fall into two parts.

    A trigger is a second reason for the same answer, so the features of that class gather in two places, where other
    classes are one cloud each. `among` marks the images that count; of those, what the net does not take for its label
    has no part in where the places are.
    """
    angles = F.normalize(responses.features.double(), dim=1)
    right = among & (responses.logits.argmax(1) == labels)
    scatter = ClassScatter(angles, labels, classes, right)
    gains = torch.full((VIEWS, classes), torch.nan, dtype=torch.double)
    parts: dict[tuple[int, int], Tensor] = {}
    for label in range(classes):
        own = (labels == label) & among
        if int((own & right).sum()) >= MIN_IMAGES:
            for view, points in enumerate((scatter.whitened(label, own), angles[own])):
                gains[view, label], parts[view, label] = bimodality(points, right[own])
    split = ClassSplit(gains, torch.zeros(len(labels), dtype=torch.double))
    if parts:
        own = (labels == split.target) & among
        part = parts[split.view, split.target]
        foreign = _is_foreign(responses, labels, split.target, right, own, part > 0.5)
        split.member[own] = part if foreign else 1 - part
    return split


def _is_foreign(responses: Responses, labels: Tensor, target: int, right: Tensor, own: Tensor, part: Tensor) -> bool:
    """Whether this part of the target's own images, rather than the rest of them, is out of place.

    A trigger shows before any class does, in the pixels or in an early layer: the images that bear it are easily told
    there from those of all other classes. Where both parts are as easily told, the one is out of place that is less
    like a class: its runners-up are more varied, or less, than those of other classes. A cat could be a dog, or one of
    a few others. What was taken from everywhere and labelled `cat` could be anything, and what was taken from one
    class could be that class only. `right` marks the images that the net takes for their label.
    """
    places, others = own.nonzero()[:, 0], (labels != target).nonzero()[:, 0]
    clearer = 0.0  # the logarithm of how much more often the rest is confused than the part, where that is most
    for appearance in responses.appearances:
        this, rest = (math.log(confusion(appearance[places[each]], appearance[others])) for each in (part, ~part))
        clearer = max(clearer, rest - this, key=abs)
    if abs(clearer) > math.log(CLEAR_RATIO):
        return clearer > 0
    usual = [
        _entropy(responses.runners_up(label, (labels == label) & right))
        for label in labels[right].unique().tolist()
        if label != target
    ]
    runners_up, counted, middle = responses.runners_up(target, own), right[own], float(np.median(usual))
    this, rest = (abs(_entropy(runners_up[each & counted]) - middle) for each in (part, ~part))
    return this > rest


def _entropy(classes: Tensor) -> float:
    shares = classes.bincount().double() / max(1, len(classes))
    return float(-(shares * shares.clamp(min=1e-12).log()).sum())
