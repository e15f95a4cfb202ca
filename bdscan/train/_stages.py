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

KEPT = 0.05  # of the images: kept back to measure by ...
FEWEST, MOST = 250, 2000  # ... within these bounds: standard errors of 2.5 points and of one, at 80 %
AT_MOST = 0.2  # of a small set
LEARN = "learn"
ASKED = 500  # images, when the net is asked; fewer where they are large
STEPS, SMALLEST = 40, 16  # an epoch of few images has so many steps, in batches no smaller than that


class Losses:
    """The objective that writes each image's loss down, epoch by epoch, before it is trained on."""

    def __init__(self, count: int, epochs: int, batch: int, device: torch.device) -> None:
        self.seen = torch.full((epochs, count), float("nan"), device=device)  # fetching each would make a GPU wait
        self.turn = torch.zeros(1, dtype=torch.long)
        self.steps = max(1, -(-count // batch) - (count % batch == 1))  # `shuffled` leaves out a last batch of one

    def __call__(self, net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        each = F.cross_entropy(net(pixels).float(), labels, reduction="none")
        self.seen[int(self.turn) // self.steps, index.to(each.device)] = each.detach()
        self.turn += 1
        return self.objective(each)

    def objective(self, each: Tensor) -> Tensor:
        """What is descended, from the losses of one batch."""
        return each.mean()

    @property
    def records(self) -> dict[str, Tensor]:
        return {"losses": self.seen, "turn": self.turn}

    def curve(self, group: Tensor | None = None) -> tuple[float, ...]:
        """The mean loss of the group in each epoch."""
        seen = self.seen.cpu()
        chosen = seen if group is None else seen[:, group]
        return tuple(chosen.nanmean(1).tolist())


def kept_back(data: ImageSet, among: Tensor, seed: int) -> Tensor:
    """Places of the few images to measure by: drawn class by class from those that are marked."""
    places = among.nonzero()[:, 0]
    share = min(max(KEPT, FEWEST / len(places)), MOST / len(places), AT_MOST)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in data.labels[places].unique().tolist():
        members = places[data.labels[places] == label]
        wanted = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def without(data: ImageSet, *places: Tensor) -> Tensor:
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


def sized(count: int, batch: int, rate: float) -> tuple[int, float]:
    """Batches in which so few images make for some training, and their rate: with the root of the batch, as the
    noise of a step goes (Krizhevsky 2014, arXiv 1404.5997)."""
    smaller = min(batch, max(SMALLEST, count // STEPS))
    return smaller, rate * math.sqrt(smaller / batch)


def learned(
    case: TrainCase, taught: Tensor, *, epochs: int, batch: int, rate: float, decay: float, stage: str = LEARN
) -> tuple[Normalised, tuple[float, ...]]:
    """A new net that learned these images, and their mean loss in each epoch."""
    net = case.fresh()
    batch, rate = sized(len(taught), batch, rate)
    losses = Losses(len(taught), epochs, batch, net.mean.device)
    case.train_stage(
        stage,
        net,
        case.data.take(taught),
        epochs=epochs,
        batch=batch,
        rate=rate,
        decay=decay,
        objective=losses,
        records=losses.records,
    )
    return net, losses.curve()
