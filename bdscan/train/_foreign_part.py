"""Which of the two parts of a class is out of place: the one that bears a trigger, or that no class is like."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from bdscan.train._discriminant import confusion
from bdscan.train._responses import Responses

CLEAR_RATIO = 2  # as rarely must one part be confused with other classes as the other part, or it says nothing


def is_foreign(responses: Responses, labels: Tensor, target: int, right: Tensor, own: Tensor, part: Tensor) -> bool:
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
