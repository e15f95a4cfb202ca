"""The second look: whether the finished net knows one class by two different things."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import p_measure
from bdscan.facts.finding import Array, Finding, Level
from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier, Normalised, pooled
from bdscan.train._stages import ASKED, in_use
from bdscan.verdict.calibration import Spread, moderated

FEWEST = 40  # images of a class: with fewer, the directions found are those of chance
DIRECTIONS = 10  # of the features of one class, the widest
EACH = 30  # images a direction, at least: with fewer a few can be told from all others by chance
RIDGE = 1e-2  # of the features' mean variance: what no image of another class varies in is not divided by nothing
CUTS = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)  # shares below which the search for two parts begins
STEPS, CLOSE = 200, 1e-4  # of expectation and maximisation, until nothing changes by more
NARROW = 0.05  # of the variance: no part is narrower
# How far apart the gains of clean classes lie: 0.03 and 0.04 in eight clean CIFAR-10 nets, 0.075 in the widest of them.
SPREAD = Spread(sd=0.08, freedom=8)
EARLY = 6  # the layer whose maps tell how an image looks: a sixth of the way through those that have maps
GRID = 8  # places a side in which pixels do
STRAGGLERS, FEW = 0.03, 20  # of a class, and images: so few lie apart in clean classes too, and are left out ...
ROUNDS = 3  # ... so often
EASIER = 2  # as rarely must one part be mixed up with other images as the other part, or it says nothing
OTHERS = 2000  # of these other images, at most
VIEWS = 2  # the features in units of what other classes vary in, and as they are


@dataclass(frozen=True, eq=False)
class Seen:
    """What the finished net makes of each image, in the order of the data."""

    features: Tensor  # what the head takes
    logits: Tensor
    looks: tuple[Tensor, ...]  # how it looks, whatever it shows: figures of its pixels, and of an early layer

    def rivals(self, label: int, among: Tensor) -> Tensor:
        """The class that the net would name if not this one, for each of these images."""
        others = self.logits[among]  # a copy
        others[:, label] = -torch.inf
        return others.argmax(1)


def features_of(net: Normalised, data: ImageSet, classes: int) -> Classifier:
    """The net as one whose last layer is known; raises `Problem` where it has none."""
    suspect = Classifier(net, cast(tuple[int, int, int], tuple(data.images.shape[1:])), classes)
    try:
        suspect.head  # noqa: B018 - it is looked for here
    except Problem as problem:
        raise Problem(problem.message, hint="`--set abl.reviews=0` trains it without the review") from None
    return suspect


def seen(net: Normalised, data: ImageSet, classes: int) -> Seen:
    """All images as they are, not augmented."""
    features, logits, pixel, early_maps = [], [], [], []
    with in_use(net) as device:
        suspect = features_of(net, data, classes)
        early = [layer.name for layer in suspect.maps][: len(suspect.maps) // EARLY + 1][-1:]
        with suspect.tap(suspect.head, inputs=True) as taken, suspect.tap(*early) as maps:
            for pixels, _ in data.batches(ASKED, device):
                logits.append(net(pixels).float().cpu())
                features.append(pooled(taken[suspect.head].float()).cpu())
                pixel.append(_places(pixels).cpu())
                if early:
                    early_maps.append(_channels(maps[early[0]].float()).cpu())
    looks = tuple(torch.cat(each) for each in (pixel, early_maps) if each)
    return Seen(torch.cat(features), torch.cat(logits), looks)


def _places(pixels: Tensor) -> Tensor:
    """The colours and the detail of each place: what is always put in the same place shows."""
    detail = (pixels - F.avg_pool2d(pixels, 3, 1, 1)).abs()
    return torch.cat([F.adaptive_avg_pool2d(each, GRID).flatten(1) for each in (pixels, detail)], dim=1)


def _channels(maps: Tensor) -> Tensor:
    """The mean, the largest and the deviation of each channel: what is put anywhere shows, too."""
    each = maps.flatten(2)
    return torch.cat([each.mean(2), each.amax(2), each.std(2)], dim=1)


@dataclass(frozen=True, eq=False)
class Parting:
    """How the classes compare."""

    gains: Tensor  # views x classes: what two parts explain better than one, in nats an image
    member: Tensor  # of each image, how surely it is of the part that is out of place, in the most conspicuous class

    @cached_property
    def each(self) -> Array:
        """A p-value a view and class."""
        return np.stack([moderated(row, SPREAD) for row in self.gains.numpy()])

    @property
    def target(self) -> int:
        """The most conspicuous class."""
        return int(self.each.min(0).argmin())

    @property
    def view(self) -> int:
        """In which it is so."""
        return int(self.each[:, self.target].argmin())

    @property
    def p_value(self) -> float:
        """Of the most conspicuous class, corrected for the number of classes and views."""
        return min(1.0, float(self.each.min()) * self.each.size)

    @property
    def part(self) -> Tensor:
        """Bool, one an image."""
        return self.member > 0.5

    def evidence(self, threshold: float, name: str) -> Finding:
        """Whether one class stands out."""
        row = self.gains[self.view].numpy()
        gain, others = row[self.target], float(np.nanmax(np.delete(row, self.target), initial=0.0))
        numbers = f"which explain {gain:.2f} nats an image more than one, in other classes at most {others:.2f}"
        if self.p_value > threshold:
            said = f"nor does the trained net know one class by two different things ({name} is the nearest to that)"
            return Finding(
                level=Level.NOTE, message=said, measure=p_measure(self.p_value, threshold), p_value=self.p_value
            )
        count = int(self.part.sum())
        return Finding(
            level=Level.SUSPECT,
            message=f"the trained net knows {name} by two different things, {numbers}: by one of them {count} images",
            target=self.target,
            measure=p_measure(self.p_value, threshold),
            p_value=self.p_value,
        )


def parting(found: Seen, labels: Tensor, classes: int, among: Tensor) -> Parting:
    """Sets the classes against one another by how far the features of each fall into two parts.

    A trigger is a second reason for the same answer, so the features of that class gather in two places, where other
    classes are one cloud each. `among` marks the images that count; of those, what the net does not take for its label
    has no part in where the places are.
    """
    angles = F.normalize(found.features.double(), dim=1)
    right = among & (found.logits.argmax(1) == labels)
    pooled = _Pooled(angles, labels, classes, right)
    gains = torch.full((VIEWS, classes), torch.nan, dtype=torch.double)
    parts: dict[tuple[int, int], Tensor] = {}
    for label in range(classes):
        own = (labels == label) & among
        if int((own & right).sum()) >= FEWEST:
            for view, points in enumerate((pooled.without(label, own), angles[own])):
                gains[view, label], parts[view, label] = twofold(points, right[own])
    result = Parting(gains, torch.zeros(len(labels), dtype=torch.double))
    if parts:
        own = (labels == result.target) & among
        part = parts[result.view, result.target]
        strange = _strange(found, labels, result.target, right, own, part > 0.5)
        result.member[own] = part if strange else 1 - part
    return result


def _strange(found: Seen, labels: Tensor, target: int, right: Tensor, own: Tensor, part: Tensor) -> bool:
    """Whether this part, rather than the rest, is out of place: it bears something that no other image bears.

    A trigger shows before any class does, in the pixels or in an early layer: the images that bear it are easily told
    there from those of all other classes. Where both parts are as easily told, the one is out of place that is less
    like a class. A cat could be a dog, or one of a few others. What was taken from everywhere and labelled `cat` could
    be anything, and what was taken from one class could be that class only.
    """
    places, others = own.nonzero()[:, 0], (labels != target).nonzero()[:, 0]
    easier = 0.0  # the logarithm of how much more often the rest is mixed up than the part, where that is most
    for look in found.looks:
        one, rest = (math.log(_mixed_up(look[places[each]], look[others])) for each in (part, ~part))
        easier = max(easier, rest - one, key=abs)
    if abs(easier) > math.log(EASIER):
        return easier > 0
    usual = [
        _entropy(found.rivals(label, (labels == label) & right))
        for label in labels[right].unique().tolist()
        if label != target
    ]
    rivals, counts, middle = found.rivals(target, own), right[own], float(np.median(usual))
    one, rest = (abs(_entropy(rivals[each & counts]) - middle) for each in (part, ~part))
    return one > rest


def _mixed_up(some: Tensor, others: Tensor) -> float:
    """How often an image of the first is not told from one of the others, by Fisher's discriminant of other images."""
    others = others[torch.linspace(0, len(others) - 1, min(len(others), OTHERS)).long()]
    if len(some) < 2 or len(others) < 2:
        return 0.5
    points = torch.cat([some, others]).double()
    points = (points - points.mean(0)) / points.std(0).clamp(min=1e-9)
    known = torch.arange(len(points)) % 2 == 0
    first = torch.arange(len(points)) < len(some)
    shares = []
    for half in (known, ~known):
        values = points @ _discriminant(points[half], first[half])
        ranks = values[~half].argsort().argsort().double()
        hits, size = ranks[first[~half]], int(first[~half].sum())
        shares.append(float((hits.mean() - (size - 1) / 2) / max(1, len(ranks) - size)))
    return max(1 - sum(shares) / 2, 1 / len(points))


def _entropy(rivals: Tensor) -> float:
    shares = rivals.bincount().double() / max(1, len(rivals))
    return float(-(shares * shares.clamp(min=1e-12).log()).sum())


class _Pooled:
    """The scatter of images around the mean of their class, over all classes but one."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int, among: Tensor) -> None:
        self.features = features
        self.scatter, self.counts = [], []
        for label in range(classes):
            own = features[(labels == label) & among]
            around = own - own.mean(0) if len(own) else own
            self.scatter.append(around.T @ around)
            self.counts.append(len(own))
        self.total, self.count = torch.stack(self.scatter).sum(0), sum(self.counts)

    def without(self, label: int, own: Tensor) -> Tensor:
        """Its images' features in units of that scatter: what is usual within a class is small in all directions."""
        scatter = (self.total - self.scatter[label]) / max(1, self.count - self.counts[label])
        ridge = RIDGE * scatter.diagonal().mean().clamp(min=1e-12)
        root = torch.linalg.cholesky(scatter + ridge * torch.eye(len(scatter), dtype=scatter.dtype))
        whitened: Tensor = torch.linalg.solve_triangular(root, self.features[own].T, upper=False).T
        return whitened


def twofold(points: Tensor, fitted: Tensor) -> tuple[float, Tensor]:
    """What two parts explain better than one, along the line that parts them best, and who belongs to the second.

    The line is at first the widest direction; once two parts are found along it, Fisher's discriminant of the two.
    Only points that are `fitted` tell where it is, and of those not a few that lie far away from all others.
    """
    for _ in range(ROUNDS):
        bells, along = _two_parts(points, fitted)
        share = bells.share(along)
        second = share > 0.5
        few = second if int((second & fitted).sum()) * 2 < int(fitted.sum()) else ~second
        apart = int((few & fitted).sum())
        if not 0 < apart <= max(FEW, STRAGGLERS * int(fitted.sum())):
            break
        fitted = fitted & ~few
    else:
        return 0.0, torch.zeros_like(share)
    return bells.gain, share


def _two_parts(points: Tensor, fitted: Tensor) -> tuple[Bells, Tensor]:
    """The parts, and where each point lies along the line between them."""
    known = points[fitted]
    count = min(DIRECTIONS, points.shape[1], max(1, len(known) // EACH))
    _, _, directions = torch.linalg.svd(known - known.mean(0), full_matrices=False)
    narrow = (points - known.mean(0)) @ directions[:count].T
    part = two_bells(narrow[fitted, 0]).share(narrow[fitted, 0])
    along = narrow @ _discriminant(narrow[fitted], part > 0.5)
    return two_bells(along[fitted]), along


def _discriminant(points: Tensor, part: Tensor) -> Tensor:
    """Fisher's; where there are not two parts, the first direction."""
    if not part.any() or part.all():
        return torch.eye(points.shape[1], dtype=points.dtype)[0]
    means = points[part].mean(0), points[~part].mean(0)
    within = points - torch.where(part[:, None], *means)
    scatter = within.T @ within / len(points)
    ridge = RIDGE * scatter.diagonal().mean().clamp(min=1e-12)
    found: Tensor = torch.linalg.solve(
        scatter + ridge * torch.eye(len(scatter), dtype=points.dtype), means[0] - means[1]
    )
    return found


@dataclass(frozen=True)
class Bells:
    """Two bell curves of one width."""

    gain: float  # in log-likelihood an image, over a single curve
    weight: float  # of the second
    upper: float
    lower: float
    width: float  # a variance

    def share(self, values: Tensor) -> Tensor:
        """How surely each value is of the second."""
        one, other = _likely(values, *(values.new_tensor(x) for x in (self.weight, self.upper, self.lower, self.width)))
        found: Tensor = (one - torch.logaddexp(one, other)).exp()
        return found


def _likely(x: Tensor, weight: Tensor, upper: Tensor, lower: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithms of both curves' likelihoods, but for what they share."""
    one, other = ((x - middle).square() / (2 * width) for middle in (upper, lower))
    return weight.log() - one, (1 - weight).log() - other


def two_bells(values: Tensor) -> Bells:
    """The likeliest, by expectation and maximisation from several beginnings at once."""
    middle, scale = values.mean(), values.std(unbiased=False)
    if not scale > 1e-9 * middle.abs():
        return Bells(gain=0.0, weight=0.5, upper=float(middle), lower=float(middle), width=1.0)
    x = (values - middle) / scale
    share = (x > x.quantile(x.new_tensor(CUTS))[:, None]).to(x.dtype)  # beginnings x values
    for _ in range(STEPS):
        weight = share.mean(1, keepdim=True).clamp(1e-3, 1 - 1e-3)
        upper = (share * x).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1e-9)
        lower = ((1 - share) * x).sum(1, keepdim=True) / (1 - share).sum(1, keepdim=True).clamp(min=1e-9)
        off = share * (x - upper).square() + (1 - share) * (x - lower).square()
        width = off.mean(1, keepdim=True).clamp(min=NARROW)
        one, other = _likely(x, weight, upper, lower, width)
        before, share = share, (one - torch.logaddexp(one, other)).exp()
        if float((share - before).abs().max()) < CLOSE:
            break
    likely = torch.logaddexp(one, other).mean(1) - 0.5 * width[:, 0].log()
    best = int(likely.argmax())
    return Bells(
        gain=float(likely[best]) + 0.5,  # the single curve has -1/2, but for the constant that both have
        weight=float(weight[best]),
        upper=float(upper[best] * scale + middle),
        lower=float(lower[best] * scale + middle),
        width=float(width[best] * scale.square()),
    )
