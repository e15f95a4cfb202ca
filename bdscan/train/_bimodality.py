"""Whether one class falls into two parts: how much better two normal distributions fit its features than one."""

from __future__ import annotations

import torch
from torch import Tensor

from bdscan.train._discriminant import discriminant, regularised
from bdscan.train._mixture import TwoNormals, fit_two_normals

MAX_DIRECTIONS = 10  # of the features of one class, the widest
IMAGES_PER_DIRECTION = 30  # at least: with fewer a few images can be told from all others by chance
# A part of at most so many images, or of at most that share of the class, lies apart in clean classes too. It is left
# out and the others are fitted again, in at most so many rounds.
STRAGGLERS, STRAGGLER_SHARE, ROUNDS = 20, 0.03, 3


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
