"""The features that a linear head sees, and the smallest shift of them that changes its answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bdscan.net.classifier import Classifier

TOLERANCE = 0.01  # of the largest logit: how nearly the lead must be reached


def smallest_shift(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    ceiling: Tensor | None = None,
    margin: float = 0.0,
    steps: int = 300,
) -> tuple[Tensor, Tensor]:
    """For every feature vector and every class: the shift (vectors x classes x channels), and whether it gets there.

    Minimises |s|^2 such that the class leads every other by `margin` at features + s and, where there is a `ceiling`,
    such that features + s stay between zero and it. Solved on the dual, which has one multiplier a rival class, by
    accelerated gradient ascent: all pairs of vector and class at once.
    """
    rivals = 1 - torch.eye(len(weight), device=weight.device)
    rate = 1 / max(float(torch.linalg.matrix_norm(row - weight, 2)) ** 2 for row in weight)
    start = features[:, None]
    pull = ahead = weight.new_zeros(len(features), len(weight), len(weight))
    momentum = 1.0
    for step in range(steps):
        after = (ahead + rate * _missing(_moved(start, ahead, weight, ceiling), weight, bias, margin)).clamp(
            min=0
        ) * rivals
        if step % 20 == 19 and float((after - pull).abs().amax()) <= 1e-5 * float(after.amax()):
            break
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = after + (momentum - 1) / faster * (after - pull)
        pull, momentum = after, faster
    moved = _moved(start, pull, weight, ceiling)
    short = (_missing(moved, weight, bias, margin) * rivals).amax(2)
    return moved - start, short <= TOLERANCE * (moved @ weight.T + bias).abs().amax()


def _moved(start: Tensor, pull: Tensor, weight: Tensor, ceiling: Tensor | None) -> Tensor:
    """The best features for these multipliers: each class is pulled in, its rivals are pushed away."""
    moved = start + pull.sum(2, keepdim=True) * weight - pull @ weight
    return moved if ceiling is None else torch.minimum(moved.clamp(min=0), ceiling)


def _missing(moved: Tensor, weight: Tensor, bias: Tensor, margin: float) -> Tensor:
    """By how much each class still falls short of leading each rival: vectors x classes x rivals."""
    logits = moved @ weight.T + bias
    return margin - logits.diagonal(dim1=1, dim2=2)[..., None] + logits


def implied_features(suspect: Classifier) -> tuple[Tensor, Tensor] | None:
    """The mean of the features and a ceiling for them, read off the batch norm right before the head.

    None unless the features are that norm's output, rectified and averaged over positions: checked on noise, because
    what lies between two modules does not show in their names.
    """
    norms = [layer.name for layer in suspect.maps if isinstance(suspect.module(layer.name), nn.BatchNorm2d)]
    if not norms:
        return None
    noise = torch.rand((4, *suspect.shape), generator=torch.Generator().manual_seed(0)).to(suspect.device)
    with torch.no_grad(), suspect.tap(norms[-1]) as recorded:
        features = suspect.features(noise)
    rectified = recorded[norms[-1]].relu().mean((2, 3))
    if rectified.shape != features.shape or not torch.allclose(rectified, features, atol=1e-4):
        return None
    norm = suspect.module(norms[-1])
    assert isinstance(norm, nn.BatchNorm2d)
    if not norm.affine:
        return None
    middle, spread = norm.bias.detach(), norm.weight.detach().abs().clamp(min=1e-12)
    at = middle / spread
    density = torch.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)
    mean = middle * torch.special.ndtr(at) + spread * density  # of a rectified normal distribution
    return mean, (middle + 3 * spread).clamp(min=0)  # three standard deviations: about the largest of 500
