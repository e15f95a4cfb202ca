"""The first stage of isolation: which images are learned soonest, and whether that says anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.evidence import Array, p_measure
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.trainer import TrainCase
from bdscan.net.classifier import Normalised
from bdscan.train._stages import EVALUATION_BATCH, Losses, batch_and_rate, in_use
from bdscan.verdict.calibration import Spread, moderated

WATCH_STAGE = "watch"
MIN_LOSS = 1e-3  # below it one image is as well learned as another
MAX_EXPLAINED = 0.999  # share of the variance, before the logarithm of the rest: two points leave nothing
MIN_IMAGES = 20  # images of a class: with fewer its distribution has no shape
# How far apart classes lie in the logarithm of what a split leaves unexplained: 0.06 on CIFAR-10 without poison, a
# thousand images a class; twice that, since others may be less even. It counts for as much as eight more classes.
CLEAN_SPLITS = Spread(sd=0.12, freedom=8)
MAX_SOONER = 0.25  # share of all other images learned sooner than the middle one of a part that is isolated

Ascent = Literal["local", "flooding", "none"]


class WatchedLosses(Losses):
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
        epoch, left = divmod(int(self.done), self.steps)
        if not left:
            with in_use(net) as device:
                batches = self.data.batches(EVALUATION_BATCH, device)
                losses = [F.cross_entropy(net(x).float(), y, reduction="none").cpu() for x, y in batches]
            self.scored[epoch - 1] = torch.cat(losses)


def watch_learning(
    case: TrainCase, *, epochs: int, batch: int, rate: float, decay: float, ascent: Ascent, gamma: float
) -> WatchedLosses:
    """A net of its own, trained on everything for a few epochs; only what it went through is kept."""
    net: Normalised = case.fresh()
    batch, rate = batch_and_rate(len(case.data), batch, rate)
    watch = WatchedLosses(case.data, epochs, batch, net.mean.device, ascent, gamma)
    case.train_stage(
        WATCH_STAGE,
        net,
        case.data,
        epochs=epochs,
        batch=batch,
        rate=rate,
        decay=decay,
        schedule="constant",
        augment=False,  # shifts and mirrors hide a patch, and here it is to be learned
        objective=watch,
        after_step=watch.after_step,
        records=watch.records,
    )
    return watch


def mean_log_loss(scored: Tensor) -> Tensor:
    """The lower, the sooner learned: the mean logarithm of an image's losses over all epochs."""
    return scored.clamp(min=MIN_LOSS).log().mean(0)


@dataclass(frozen=True, eq=False)
class ClassComparison:
    """How the classes compare."""

    explained: Array  # of each class: the share of the variance of its mean log losses that two parts explain
    p_values: Array
    target: int  # the most conspicuous
    part: Tensor  # bool, one an image: the part of that class that was learned sooner
    others_sooner: float  # share of all other images that were learned sooner than its middle

    @property
    def p_value(self) -> float:
        """Of the most conspicuous class, corrected for the number of classes."""
        return min(1.0, float(self.p_values[self.target]) * len(self.p_values))

    def evidence(self, threshold: float, name: str) -> Finding:
        """Whether one class stands out; `name` is that of the most conspicuous.

        That takes both: two parts as no other class has, and one of them learned too soon.
        """
        target, p_value, explained = self.target, self.p_value, self.explained[self.target]
        others = float(np.nanmax(np.delete(self.explained, target), initial=0.0))
        numbers = (
            f"which explain {explained:.0%} of how soon its images are learned, in other classes at most {others:.0%}"
        )
        if p_value <= threshold and self.others_sooner <= MAX_SOONER:
            count, rest = int(self.part.sum()), 1 - self.others_sooner
            sooner = f"{count} of its images are learned sooner than {rest:.0%} of all others"
            return Finding(
                level=Level.SUSPECT,
                message=f"{name} falls into two parts, {numbers}: {sooner}",
                target=target,
                measure=p_measure(p_value, threshold),
                p_value=p_value,
            )
        if p_value <= threshold:
            message = (
                f"nothing stands out: {name} falls into two parts, but neither is learned sooner than other classes"
            )
        else:
            message = f"nothing stands out: no class falls into two parts more than others do ({name} does most)"
        return Finding(level=Level.NOTE, message=message, measure=p_measure(p_value, threshold), p_value=p_value)


def compare_classes(mean_log_losses: Tensor, labels: Tensor, classes: int) -> ClassComparison:
    """Sets the classes against one another by how far each falls into two parts.

    An easy class is learned early as a whole. A class in which some images bear a trigger falls into those and the
    rest; Otsu's criterion (1979) measures that: two thirds for a bell curve, one for two points.
    """
    explained, bounds = np.full(classes, np.nan), np.full(classes, -np.inf)
    for label in range(classes):
        own = mean_log_losses[labels == label]
        if len(own) >= MIN_IMAGES:
            explained[label], bounds[label] = otsu_split(own)
    compared = moderated(-np.log1p(-np.minimum(explained, MAX_EXPLAINED)), CLEAN_SPLITS)
    p_values = np.nan_to_num(compared, nan=1.0)  # a class with too few images is not to be named
    target = int(p_values.argmin())
    part = (labels == target) & (mean_log_losses < bounds[target])
    others_sooner = (
        float((mean_log_losses[~part] < mean_log_losses[part].median()).float().mean()) if part.any() else 1.0
    )
    return ClassComparison(explained, p_values, target, part, others_sooner)


def otsu_split(values: Tensor) -> tuple[float, float]:
    """The cut into two parts that explains most of the variance: the share that it explains, and where it is."""
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.double)
    total = ordered.cumsum(0)
    share = below / len(ordered)
    away = total[:-1] / below - (total[-1] - total[:-1]) / (len(ordered) - below)
    explained = share * (1 - share) * away.square() / ordered.var(unbiased=False).clamp(min=1e-12)
    best = int(explained.argmax())
    return float(explained[best]), float(ordered[best : best + 2].mean())
