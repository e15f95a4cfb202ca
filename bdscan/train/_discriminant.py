"""Fisher's linear discriminant: the direction along which two groups of points lie furthest apart."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-2  # of the mean variance: a direction in which nothing varies is not divided by nothing
MAX_OTHERS = 2000  # points of the second group, when groups are told apart


def discriminant(points: Tensor, group: Tensor) -> Tensor:
    """Between the points of the group and the others; the first axis where either is empty."""
    if not group.any() or group.all():
        return torch.eye(points.shape[1], dtype=points.dtype)[0]
    means = points[group].mean(0), points[~group].mean(0)
    within = points - torch.where(group[:, None], *means)
    scatter = regularised(within.T @ within / len(points))
    direction: Tensor = torch.linalg.solve(scatter, means[0] - means[1])
    return direction


def regularised(scatter: Tensor) -> Tensor:
    ridge = RIDGE * scatter.diagonal().mean().clamp(min=1e-12)
    return scatter + ridge * torch.eye(len(scatter), dtype=scatter.dtype)


def confusion(some: Tensor, others: Tensor) -> float:
    """How often a point of the first group is not told from one of the second: one minus the area under the ROC curve
    of a discriminant that was learned from the other half of the points."""
    others = others[torch.linspace(0, len(others) - 1, min(len(others), MAX_OTHERS)).long()]
    if len(some) < 2 or len(others) < 2:
        return 0.5
    points = torch.cat([some, others]).double()
    points = (points - points.mean(0)) / points.std(0).clamp(min=1e-9)
    even = torch.arange(len(points)) % 2 == 0
    first = torch.arange(len(points)) < len(some)
    areas = []
    for half in (even, ~even):
        values = points @ discriminant(points[half], first[half])
        ranks = values[~half].argsort().argsort().double()
        own, size = ranks[first[~half]], int(first[~half].sum())
        areas.append(float((own.mean() - (size - 1) / 2) / max(1, len(ranks) - size)))
    return max(1 - sum(areas) / 2, 1 / len(points))
