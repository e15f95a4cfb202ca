"""Takes out of a head what clean images have no use for: the directions by which a backdoor was read."""

from __future__ import annotations

import torch
from torch import Tensor

from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier, parameters_of

STRENGTH = 1.0  # of the mean variance of a feature; measured: at a third of it the probes still see the old target
STRENGTH_SHARES = (1.0, 0.3, 0.1)  # of it, where more would cost too much accuracy
MAX_ACCURACY_LOSS = 0.01  # accuracy that may be lost on images whose features were not looked at
BATCH = 250  # images at once


def shrink_head(suspect: Classifier, clean: ImageSet, strength: float, seed: int) -> tuple[str, ...]:
    """Shrinks each direction of the head by how little clean features vary along it: v / (v + strength), v their
    variance in units of the mean. Changes `suspect`, and says what was done.

    The head then answers clean images nearly as before, and hardly at all what no clean image brings about. Methods
    that keep the head leave there what they no longer let a trigger reach, for somebody else to wake.
    """
    with torch.no_grad():
        batches = clean.batches(BATCH, suspect.device)
        features = torch.cat([suspect.features(pixels).double().cpu() for pixels, _ in batches])
    centred = parameters_of(suspect.module(suspect.head))[1] is not None
    head = suspect.head_weight.double().cpu(), suspect.head_bias.double().cpu()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    first, second = order.tensor_split(2)
    before = _right(features[second], clean.labels[second], *head)
    for share in STRENGTH_SHARES if strength else ():
        tried = _shrunk(features[first], *head, strength * share, centred=centred)
        if before - _right(features[second], clean.labels[second], *tried) <= MAX_ACCURACY_LOSS:
            _put(suspect, *_shrunk(features, *head, strength * share, centred=centred))
            return (f"the head was quietened where clean images do not need it (strength {strength * share:g})",)
    return ()


def _right(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float(((features @ weight.T + bias).argmax(1) == labels).double().mean())


def _shrunk(features: Tensor, weight: Tensor, bias: Tensor, strength: float, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias; without a bias to take up the mean, the mean is a direction like others."""
    middle = features.mean(0) if centred else torch.zeros_like(features[0])
    off = features - middle
    spread = off.T @ off / len(off)
    ridge = strength * spread.diagonal().mean().clamp(min=1e-12) * torch.eye(len(spread)).to(spread)
    less = torch.linalg.solve(spread + ridge, spread @ weight.T).T
    return less, bias + (weight - less) @ middle


def _put(suspect: Classifier, weight: Tensor, bias: Tensor) -> None:
    own_weight, own_bias = parameters_of(suspect.module(suspect.head))
    with torch.no_grad():
        own_weight.copy_(weight.view_as(own_weight))
        if own_bias is not None:
            own_bias.copy_(bias)
