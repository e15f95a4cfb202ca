"""Whether one class falls into two parts: how much better two normal distributions fit its features than one, along
the line that parts it best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_DIRECTIONS = 10  # of the features of one class, the widest
IMAGES_PER_DIRECTION = 30  # at least: with fewer a few images can be told from all others by chance
# A part of at most so many images, or of at most that share of the class, lies apart in clean classes too. It is left
# out and the others are fitted again, in at most so many rounds.
STRAGGLERS, STRAGGLER_SHARE, ROUNDS = 20, 0.03, 3
RIDGE = 1e-2  # of the mean variance: a direction in which nothing varies is not divided by nothing
MAX_OTHERS = 2000  # points of the second group, when groups are told apart
START_QUANTILES = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # of the values: where the first component begins, at first
MAX_STEPS = 200  # of expectation and maximisation
POSTERIOR_TOLERANCE = 1e-4  # it ends when no posterior changes by more
MIN_VARIANCE = 0.05  # of a component, in units of the variance of all values: a few equal ones are no component


class ClassScatter:
    """The scatter of images around the mean of their class, over all classes but one."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int, among: Tensor) -> None:
        self.features = features
        self.scatters, self.counts = [], []
        for label in range(classes):
            own = features[(labels == label) & among]
            around = own - own.mean(0) if len(own) else own
            self.scatters.append(around.T @ around)
            self.counts.append(len(own))
        self.total, self.count = torch.stack(self.scatters).sum(0), sum(self.counts)

    def whitened(self, label: int, own: Tensor) -> Tensor:
        """The features of the class in units of the other classes' scatter: what is usual within a class is small in
        all directions."""
        scatter = (self.total - self.scatters[label]) / max(1, self.count - self.counts[label])
        root = torch.linalg.cholesky(regularised(scatter))
        points: Tensor = torch.linalg.solve_triangular(root, self.features[own].T, upper=False).T
        return points


def bimodality(points: Tensor, fitted: Tensor) -> tuple[float, Tensor]:
    """What two parts explain better than one, in log-likelihood an image, and how probably each is of the second part.

    Only points that are `fitted` tell where the parts are, and of those not a few that lie far away from all others.
    """
    for _ in range(ROUNDS):
        mixture, along = _along_best_line(points, fitted)
        posterior = mixture.posterior(along)
        second = posterior > 0.5
        smaller = second if int((second & fitted).sum()) * 2 < int(fitted.sum()) else ~second
        count = int((smaller & fitted).sum())
        if not 0 < count <= max(STRAGGLERS, STRAGGLER_SHARE * int(fitted.sum())):
            break
        fitted = fitted & ~smaller
    else:
        return 0.0, torch.zeros_like(posterior)
    return mixture.gain, posterior


def _along_best_line(points: Tensor, fitted: Tensor) -> tuple[TwoNormals, Tensor]:
    """The mixture, and where each point lies along the line that parts it best.

    The line is at first the widest direction; once two parts are found along it, Fisher's discriminant of the two.
    """
    trusted = points[fitted]
    count = min(MAX_DIRECTIONS, points.shape[1], max(1, len(trusted) // IMAGES_PER_DIRECTION))
    _, _, directions = torch.linalg.svd(trusted - trusted.mean(0), full_matrices=False)
    projected = (points - trusted.mean(0)) @ directions[:count].T
    widest = projected[fitted, 0]
    part = fit_two_normals(widest).posterior(widest) > 0.5
    along = projected @ discriminant(projected[fitted], part)
    return fit_two_normals(along[fitted]), along


@dataclass(frozen=True)
class TwoNormals:
    """The components differ in their means and their weights."""

    gain: float  # in log-likelihood a value, over a single normal distribution
    weight: float  # of the upper component
    upper: float  # mean
    lower: float  # mean
    variance: float

    def posterior(self, values: Tensor) -> Tensor:
        """How probably each value is of the upper component."""
        parameters = (values.new_tensor(x) for x in (self.weight, self.upper, self.lower, self.variance))
        return _posterior(*_log_likelihoods(values, *parameters))


def fit_two_normals(values: Tensor) -> TwoNormals:
    """The likeliest mixture, by expectation and maximisation from several beginnings at once."""
    mean, scale = values.mean(), values.std(unbiased=False)
    if not scale > 1e-9 * mean.abs():
        return TwoNormals(gain=0.0, weight=0.5, upper=float(mean), lower=float(mean), variance=1.0)
    x = (values - mean) / scale
    posterior = (x > x.quantile(x.new_tensor(START_QUANTILES))[:, None]).to(x.dtype)  # beginnings x values
    for _ in range(MAX_STEPS):
        weight = posterior.mean(1, keepdim=True).clamp(1e-3, 1 - 1e-3)
        upper = (posterior * x).sum(1, keepdim=True) / posterior.sum(1, keepdim=True).clamp(min=1e-9)
        lower = ((1 - posterior) * x).sum(1, keepdim=True) / (1 - posterior).sum(1, keepdim=True).clamp(min=1e-9)
        squares = posterior * (x - upper).square() + (1 - posterior) * (x - lower).square()
        variance = squares.mean(1, keepdim=True).clamp(min=MIN_VARIANCE)
        likelihoods = _log_likelihoods(x, weight, upper, lower, variance)
        before, posterior = posterior, _posterior(*likelihoods)
        if float((posterior - before).abs().max()) < POSTERIOR_TOLERANCE:
            break
    likelihood = torch.logaddexp(*likelihoods).mean(1) - 0.5 * variance[:, 0].log()
    best = int(likelihood.argmax())
    return TwoNormals(
        gain=float(likelihood[best]) + 0.5,  # a single one has -1/2, but for the constant that both have
        weight=float(weight[best]),
        upper=float(upper[best] * scale + mean),
        lower=float(lower[best] * scale + mean),
        variance=float(variance[best] * scale.square()),
    )


def _log_likelihoods(
    x: Tensor, weight: Tensor, upper: Tensor, lower: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Of both components, but for the terms that they share."""
    from_upper, from_lower = ((x - mean).square() / (2 * variance) for mean in (upper, lower))
    return weight.log() - from_upper, (1 - weight).log() - from_lower


def _posterior(upper: Tensor, lower: Tensor) -> Tensor:
    return (upper - torch.logaddexp(upper, lower)).exp()


def discriminant(points: Tensor, group: Tensor) -> Tensor:
    """Fisher's: along it the group and the others lie furthest apart; the first axis where either is empty."""
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
