"""The stages that several trainers share: what is kept back, and plain learning of the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.images.image_set import ImageSet
from bdscan.method.trainer import TrainCase
from bdscan.net.classifier import Normalised
from bdscan.net.fit import autocast

KEPT_SHARE = 0.05  # of the images are kept back to measure by
MIN_KEPT, MAX_KEPT = 250, 2000  # images kept back: standard errors of 2.5 points and of one, at 80 % accuracy
MAX_KEPT_SHARE = 0.2  # even of a set so small that fewer than `MIN_KEPT` are kept back then
LEARN_STAGE = "learn"
EVALUATION_BATCH = 500  # images at once; fewer where they are large
MIN_STEPS = 40  # of an epoch: few images are trained on in smaller batches, so that there are so many steps
MIN_BATCH = 16  # images: batches are no smaller than that, however few steps an epoch then has


class Losses:
    """The objective that records each image's loss, epoch by epoch, before it is trained on."""

    def __init__(self, count: int, epochs: int, batch: int, device: torch.device) -> None:
        self.losses = torch.full((epochs, count), float("nan"), device=device)  # fetching each would make a GPU wait
        self.done = torch.zeros(1, dtype=torch.long)
        self.steps = max(1, -(-count // batch) - (count % batch == 1))  # `shuffled` leaves out a last batch of one

    def __call__(self, net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        each = F.cross_entropy(net(pixels).float(), labels, reduction="none")
        self.losses[int(self.done) // self.steps, index.to(each.device)] = each.detach()
        self.done += 1
        return self.objective(each)

    def objective(self, each: Tensor) -> Tensor:
        """What is descended, from the losses of one batch."""
        return each.mean()

    @property
    def records(self) -> dict[str, Tensor]:
        return {"losses": self.losses, "turn": self.done}

    def curve(self, group: Tensor | None = None) -> tuple[float, ...]:
        """The mean loss of the group in each epoch."""
        losses = self.losses.cpu()
        chosen = losses if group is None else losses[:, group]
        return tuple(chosen.nanmean(1).tolist())


def kept_back(data: ImageSet, among: Tensor, seed: int) -> Tensor:
    """Places of the few images to measure by: drawn class by class from those that are marked."""
    places = among.nonzero()[:, 0]
    share = min(max(KEPT_SHARE, MIN_KEPT / len(places)), MAX_KEPT / len(places), MAX_KEPT_SHARE)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in data.labels[places].unique().tolist():
        members = places[data.labels[places] == label]
        wanted = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def all_but(data: ImageSet, *places: Tensor) -> Tensor:
    """The places of all the others."""
    left = torch.ones(len(data), dtype=torch.bool)
    for each in places:
        left[each] = False
    return left.nonzero()[:, 0]


@contextmanager
def in_use(net: nn.Module) -> Iterator[torch.device]:
    """The net as it answers when it is asked, without gradients; trained on as before when the block ends."""
    was, device = net.training, next(net.parameters()).device
    net.eval()
    try:
        with torch.no_grad(), autocast(device):
            yield device
    finally:
        net.train(was)


def batch_and_rate(count: int, batch: int, rate: float) -> tuple[int, float]:
    """Batches in which so few images make for some training, and their rate: with the root of the batch, as the
    noise of a step goes (Krizhevsky 2014, arXiv 1404.5997)."""
    smaller = min(batch, max(MIN_BATCH, count // MIN_STEPS))
    return smaller, rate * math.sqrt(smaller / batch)


def train_new_net(
    case: TrainCase, places: Tensor, *, epochs: int, batch: int, rate: float, decay: float, stage: str = LEARN_STAGE
) -> tuple[Normalised, tuple[float, ...]]:
    """A new net trained on the images at these places, and their mean loss in each epoch."""
    net = case.fresh()
    batch, rate = batch_and_rate(len(places), batch, rate)
    losses = Losses(len(places), epochs, batch, net.mean.device)
    case.train_stage(
        stage,
        net,
        case.data.take(places),
        epochs=epochs,
        batch=batch,
        rate=rate,
        decay=decay,
        objective=losses,
        records=losses.records,
    )
    return net, losses.curve()
