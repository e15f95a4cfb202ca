"""The first stage of isolation: which images are learned soonest, and whether that says anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.evidence import p_measure
from bdscan.facts.finding import Array, Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.trainer import TrainCase
from bdscan.net.classifier import Normalised
from bdscan.train._stages import ASKED, Losses, in_use, sized
from bdscan.verdict.calibration import Spread, moderated

WATCH = "watch"
FLOOR = 1e-3  # of a loss, before its logarithm: below it one image is as well learned as another
MOST = 0.999  # that a split can explain: two points leave nothing
FEWEST = 20  # images of a class: with fewer its distribution has no shape
# How far apart classes lie in the logarithm of what a split leaves unexplained: 0.06 on CIFAR-10 without poison, a
# thousand images a class; twice that, since others may be less even. It counts for as much as eight more classes.
SPREAD = Spread(sd=0.12, freedom=8)
Ascent = Literal["local", "flooding", "none"]
SOONER = 0.25  # of all other images, at most, are learned sooner than the middle one of a part that is isolated


class Watched(Losses):
    """The objective of the first stage, which keeps what is learned too well from being learned any better."""

    def __init__(self, data: ImageSet, epochs: int, batch: int, device: torch.device, ascent: Ascent, gamma: float):
        super().__init__(len(data), epochs, batch, device)
        self.data, self.ascent, self.gamma = data, ascent, gamma
        self.scored = torch.zeros(epochs, len(data))  # as the net answers in use, after each epoch

    def objective(self, each: Tensor) -> Tensor:
        if self.ascent == "local":  # each image's own sign, as the formula has it; the authors' code takes the batch's
            return (torch.sign(each.detach() - self.gamma) * each).mean()
        if self.ascent == "flooding":
            return (each.mean() - self.gamma).abs() + self.gamma
        return each.mean()

    @property
    def records(self) -> dict[str, Tensor]:
        return {**super().records, "scored": self.scored}

    def after_step(self, net: nn.Module) -> None:
        """At the end of an epoch every image is asked."""
        epoch, left = divmod(int(self.turn), self.steps)
        if not left:
            self.scored[epoch - 1] = losses(net, self.data)


def losses(net: nn.Module, data: ImageSet) -> Tensor:
    """Of each image, with the net as it is in use."""
    with in_use(net) as device:
        each = [F.cross_entropy(net(x).float(), y, reduction="none").cpu() for x, y in data.batches(ASKED, device)]
    return torch.cat(each)


def watched(
    case: TrainCase, *, epochs: int, batch: int, rate: float, decay: float, ascent: Ascent, gamma: float
) -> Watched:
    """A net of its own, trained on everything for a few epochs; only what it went through is kept."""
    net: Normalised = case.fresh()
    batch, rate = sized(len(case.data), batch, rate)
    seen = Watched(case.data, epochs, batch, net.mean.device, ascent, gamma)
    case.train_stage(
        WATCH,
        net,
        case.data,
        epochs=epochs,
        batch=batch,
        rate=rate,
        decay=decay,
        schedule="constant",
        augment=False,  # shifts and mirrors hide a patch, and here it is to be learned
        objective=seen,
        after_step=seen.after_step,
        records=seen.records,
    )
    return seen


def depth(scored: Tensor) -> Tensor:
    """The lower, the sooner learned: the mean logarithm of an image's losses over all epochs."""
    return scored.clamp(min=FLOOR).log().mean(0)


@dataclass(frozen=True, eq=False)
class Standing:
    """How the classes compare."""

    apart: Array  # of each class: the share of the depths' variance that splitting it in two explains
    p_values: Array
    target: int  # the most conspicuous
    part: Tensor  # bool, one an image: the part of that class that was learned sooner
    before: float  # share of all other images that were learned sooner than its middle

    @property
    def p_value(self) -> float:
        """Of the most conspicuous class, corrected for the number of classes."""
        return min(1.0, float(self.p_values[self.target]) * len(self.p_values))


def standing(depths: Tensor, labels: Tensor, classes: int) -> Standing:
    """Sets the classes against one another by how far each falls into two parts.

    An easy class is learned early as a whole. A class in which some images bear a trigger falls into those and the
    rest; Otsu's criterion (1979) measures that: two thirds for a bell curve, one for two points.
    """
    apart, bounds = np.full(classes, np.nan), np.full(classes, -np.inf)
    for label in range(classes):
        own = depths[labels == label]
        if len(own) >= FEWEST:
            apart[label], bounds[label] = split(own)
    p_values = moderated(-np.log1p(-np.minimum(apart, MOST)), SPREAD)
    target = int(p_values.argmin())
    part = (labels == target) & (depths < bounds[target])
    before = float((depths[~part] < depths[part].median()).float().mean()) if part.any() else 1.0
    return Standing(apart, p_values, target, part, before)


def split(values: Tensor) -> tuple[float, float]:
    """The cut into two parts that explains most of the variance: the share that it explains, and where it is."""
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.double)
    total = ordered.cumsum(0)
    share = below / len(ordered)
    away = total[:-1] / below - (total[-1] - total[:-1]) / (len(ordered) - below)
    explained = share * (1 - share) * away.square() / ordered.var(unbiased=False).clamp(min=1e-12)
    best = int(explained.argmax())
    return float(explained[best]), float(ordered[best : best + 2].mean())


def evidence(found: Standing, threshold: float, name: str) -> Finding:
    """That one class stands out takes both: two parts as no other class has, and one of them learned too soon."""
    target, p_value, apart = found.target, found.p_value, found.apart[found.target]
    others = float(np.nanmax(np.delete(found.apart, target), initial=0.0))
    numbers = f"which explain {apart:.0%} of how soon its images are learned, in other classes at most {others:.0%}"
    if p_value <= threshold and found.before <= SOONER:
        sooner = f"{int(found.part.sum())} of its images are learned sooner than {1 - found.before:.0%} of all others"
        return Finding(
            level=Level.SUSPECT,
            message=f"{name} falls into two parts, {numbers}: {sooner}",
            target=target,
            measure=p_measure(p_value, threshold),
            p_value=p_value,
        )
    if p_value <= threshold:
        said = f"nothing stands out: {name} falls into two parts, but neither is learned sooner than other classes"
    else:
        said = f"nothing stands out: no class falls into two parts more than others do ({name} does most)"
    return Finding(level=Level.NOTE, message=said, measure=p_measure(p_value, threshold), p_value=p_value)
