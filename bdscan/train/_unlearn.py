"""The last stage: isolated images are unlearned while the others are held, in rounds that are measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.training_record import UnlearningRecord
from bdscan.facts.treatment import Change
from bdscan.images.image_set import ImageSet
from bdscan.method.trainer import TrainCase
from bdscan.net.classifier import Normalised
from bdscan.train._stages import EVALUATION_BATCH, batch_and_rate, in_use

MAX_STEPS = 40  # a round
MAX_IMAGES = 64  # isolated images a step, and as many trusted ones
MAX_EXCESS = 0.05  # share of the isolated images taken for their label, beyond that of other classes' images by mistake
HELD_OUT_SHARE = 0.2  # of the isolated images: to see whether what is unlearned is what they share
RATE_DECAY = 0.8  # the rate of each round, in shares of the one before: with a lower rate lost accuracy comes back


@dataclass(frozen=True, eq=False)
class AscentObjective:
    """The objective: away from the label of the isolated images, towards that of the others all the while.

    Away from it by -log(1 - p). The paper ascends -log(p), which has no slope where an image is fully learned and no
    end where it is not; this one is steep at first, and ends by itself.
    """

    isolated: ImageSet
    trusted: ImageSet  # of the same class, as many a step: else the net would forget the class and be done

    def __call__(self, net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        isolated, isolated_labels = _drawn_images(self.isolated, index, pixels.device)
        trusted, trusted_labels = _drawn_images(self.trusted, index, pixels.device)
        with fixed_norms(net):
            logits = net(torch.cat([pixels, trusted, isolated])).float()
        descended, ascended = logits.split([len(pixels) + len(trusted), len(isolated)])
        losses = F.cross_entropy(descended, torch.cat([labels, trusted_labels]), reduction="none")
        towards = losses[: len(pixels)].mean() + losses[len(pixels) :].mean()
        others = ascended.masked_fill(F.one_hot(isolated_labels, ascended.shape[1]).bool(), -torch.inf)
        away: Tensor = (ascended.logsumexp(1) - others.logsumexp(1)).mean()  # -log(1 - p)
        return towards + away


def _drawn_images(data: ImageSet, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Some of the images: as random as the batch is, and the same when the training is resumed."""
    places = index[:MAX_IMAGES] % len(data)
    pixels: Tensor = data.images[places].to(device).float().div_(255)
    return pixels, data.labels[places].to(device)


@contextmanager
def fixed_norms(net: nn.Module) -> Iterator[None]:
    """Batch norm as in use: by its running statistics, which stay those of the data."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


@dataclass
class UnlearnProgress:
    """The net before the unlearning and the best after it: whether it obeys, and what it still knows."""

    obeyed: float  # isolated images, unseen by the ascent, taken for their label
    accuracy: float  # on images kept back
    before: tuple[float, float]
    mistaken: float  # images of other classes kept back that are taken for that label
    rounds: int = 0
    too_costly: int = 0  # rounds that cost more accuracy than allowed
    asked: int = 1  # isolated images by which `obeyed` was measured

    def better(self, obeyed: float, accuracy: float, loss: float) -> bool:
        """Whether this round's net takes the place of the best; whatever costs more than `loss` never does."""
        self.rounds += 1
        if not accuracy >= self.before[1] - loss:  # also where it is not a number
            self.too_costly += 1
            return False
        if obeyed >= self.obeyed:
            return False
        self.obeyed, self.accuracy = obeyed, accuracy
        return True

    @property
    def unlearned(self) -> bool:
        chance = 2 * math.sqrt(self.mistaken * (1 - self.mistaken) / self.asked)  # two standard errors
        return self.obeyed <= self.mistaken + MAX_EXCESS + chance

    def record(self) -> UnlearningRecord:
        """For the report."""
        if not self.rounds:
            stopped = "there was nothing to unlearn" if self.unlearned else "there was nothing to hold the class by"
        elif self.unlearned:
            stopped = "stopped when they were unlearned"
        elif (self.obeyed, self.accuracy) == self.before:
            stopped = "given up: " + (
                f"{self.too_costly} rounds cost too much accuracy" if self.too_costly else "it made no difference"
            )
        else:
            stopped = "not all of them are unlearned"
        return UnlearningRecord(
            rounds=self.rounds,
            obeyed=Change(before=self.before[0], after=self.obeyed),
            mistaken=self.mistaken,
            accuracy=Change(before=self.before[1], after=self.accuracy),
            stopped=stopped,
        )


def unlearn(
    case: TrainCase,
    net: Normalised,
    isolated: ImageSet,
    others: ImageSet,
    kept: ImageSet,
    *,
    rounds: int,
    batch: int,
    rate: float,
    loss: float,
) -> UnlearnProgress:
    """Changes `net`; no round that costs more than `loss` of the accuracy on `kept` remains."""
    climbed, asked = isolated.split(1 - HELD_OUT_SHARE, case.seed)
    asked = asked if len(asked) else isolated
    label = int(isolated.labels[0])
    trusted = others.take((others.labels == label).nonzero()[:, 0])
    objective = AscentObjective(climbed, trusted)
    batch, rate = batch_and_rate(len(others), batch, rate)
    before = share(net, isolated), share(net, kept)  # no step has used any of them so far
    done = UnlearnProgress(*before, before=before, mistaken=mistaken(net, kept, label), asked=len(asked))
    best = copy.deepcopy(net.state_dict())
    for number in range(rounds if len(trusted) and not done.unlearned else 0):
        case.train_stage(
            f"unlearn {number + 1}",
            net,
            others.sample(MAX_STEPS * batch, case.seed + number),
            epochs=1,
            batch=batch,
            rate=rate * RATE_DECAY**number,
            decay=0.0,
            schedule="constant",
            objective=objective,
            lasting=False,
        )
        if done.better(share(net, asked), share(net, kept), loss):
            best = copy.deepcopy(net.state_dict())
        if done.unlearned:
            break
    net.load_state_dict(best)
    return done


def share(net: nn.Module, data: ImageSet) -> float:
    """Of the images, those that the net takes for their label."""
    with in_use(net) as device:
        hits = [(net(x).argmax(1) == y).cpu() for x, y in data.batches(EVALUATION_BATCH, device)]
    return float(torch.cat(hits).float().mean())


def mistaken(net: nn.Module, data: ImageSet, label: int) -> float:
    """The share of the images of other classes that the net takes for this one."""
    other = data.without(label)
    return share(net, replace(other, labels=torch.full_like(other.labels, label)))
