"""A mixture of two normal distributions of one variance, fitted to numbers on a line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

START_QUANTILES = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # of the values: where the first component begins, at first
MAX_STEPS = 200  # of expectation and maximisation
TOLERANCE = 1e-4  # it ends when no posterior changes by more
MIN_VARIANCE = 0.05  # of a component, in units of the variance of all values: a few equal ones are no component


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
        if float((posterior - before).abs().max()) < TOLERANCE:
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
