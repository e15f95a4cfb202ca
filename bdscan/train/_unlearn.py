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
from bdscan.train._stages import ASKED, in_use, sized

STEPS = 40  # a round, at most
AT_ONCE = 64  # isolated images a step, and as many above suspicion
OBEYS = 0.05  # of the isolated images may be taken for their label beyond the share of others that are by mistake
HELD_OUT = 0.2  # of the isolated images: to see whether what is unlearned is what they share
SLOWER = 0.8  # the rate of each round, of the one before: what was lost comes back


@dataclass(frozen=True, eq=False)
class Ascent:
    """The objective: away from the label of the isolated images, towards that of the others all the while.

    Away from it by -log(1 - p). The paper ascends -log(p), which has no slope where an image is fully learned and no
    end where it is not; this one is steep at first, and ends by itself.
    """

    isolated: ImageSet
    trusted: ImageSet  # of the same class, as many a step: else the net would forget the class and be done

    def __call__(self, net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        bad, told = _picked(self.isolated, index, pixels.device)
        good, right = _picked(self.trusted, index, pixels.device)
        with fixed_norms(net):
            logits = net(torch.cat([pixels, good, bad])).float()
        taught, refused = logits.split([len(pixels) + len(good), len(bad)])
        rest = refused.masked_fill(F.one_hot(told, refused.shape[1]).bool(), -torch.inf).logsumexp(1)
        each = F.cross_entropy(taught, torch.cat([labels, right]), reduction="none")
        known = each[: len(pixels)].mean() + each[len(pixels) :].mean()
        away: Tensor = (refused.logsumexp(1) - rest).mean()
        return known + away


def _picked(data: ImageSet, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Some of the images: as random as the batch is, and the same when the training is resumed."""
    places = index[:AT_ONCE] % len(data)
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
class Progress:
    """The net before the unlearning and the best after it: whether it obeys, and what it still knows."""

    obeyed: float  # isolated images, unseen by the ascent, taken for their label
    accuracy: float  # on images kept back
    before: tuple[float, float]
    mistaken: float  # images of other classes kept back that are taken for that label
    rounds: int = 0
    dear: int = 0  # rounds that cost too much accuracy
    asked: int = 1  # isolated images that tell

    def better(self, obeyed: float, accuracy: float, loss: float) -> bool:
        """Whether this round's net takes the place of the best; whatever costs more than `loss` never does."""
        self.rounds += 1
        if not accuracy >= self.before[1] - loss:  # also where it is not a number
            self.dear += 1
            return False
        if obeyed >= self.obeyed:
            return False
        self.obeyed, self.accuracy = obeyed, accuracy
        return True

    @property
    def unlearned(self) -> bool:
        chance = 2 * math.sqrt(self.mistaken * (1 - self.mistaken) / self.asked)  # two standard errors
        return self.obeyed <= self.mistaken + OBEYS + chance

    def record(self) -> UnlearningRecord:
        """For the report."""
        if not self.rounds:
            stopped = "there was nothing to unlearn" if self.unlearned else "there was nothing to hold the class by"
        elif self.unlearned:
            stopped = "stopped when they were unlearned"
        elif (self.obeyed, self.accuracy) == self.before:
            stopped = "given up: " + (
                f"{self.dear} rounds cost too much accuracy" if self.dear else "it made no difference"
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


def unlearned(
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
) -> Progress:
    """Changes `net`; no round that costs more than `loss` of the accuracy on `kept` remains."""
    climbed, asked = isolated.split(1 - HELD_OUT, case.seed)
    asked = asked if len(asked) else isolated
    label = int(isolated.labels[0])
    trusted = others.take((others.labels == label).nonzero()[:, 0])
    objective = Ascent(climbed, trusted)
    batch, rate = sized(len(others), batch, rate)
    before = share(net, isolated), share(net, kept)  # no step has used any of them so far
    done = Progress(*before, before=before, mistaken=mistaken(net, kept, label), asked=len(asked))
    best = copy.deepcopy(net.state_dict())
    for number in range(rounds if len(trusted) and not done.unlearned else 0):
        case.train_stage(
            f"unlearn {number + 1}",
            net,
            others.take(_drawn(len(others), STEPS * batch, case.seed + number)),
            epochs=1,
            batch=batch,
            rate=rate * SLOWER**number,
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
    return float(hits(net, data).float().mean())


def mistaken(net: nn.Module, data: ImageSet, label: int) -> float:
    """The share of the images of other classes that the net takes for this one."""
    other = data.take((data.labels != label).nonzero()[:, 0])
    return share(net, replace(other, labels=torch.full_like(other.labels, label)))


def hits(net: nn.Module, data: ImageSet) -> Tensor:
    """Which images the net takes for their label."""
    with in_use(net) as device:
        found = [(net(x).argmax(1) == y).cpu() for x, y in data.batches(ASKED, device)]
    return torch.cat(found)


def _drawn(count: int, most: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values
