"""How much of a training's time is forward and backward: `bdscan train`'s loop beside a bare one on the same net."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.images.image_set import ImageSet
from bdscan.load.arch.fresh import fresh
from bdscan.method.trainer import TrainCase
from bdscan.net.checkpoint import TrainingCheckpoint
from bdscan.net.classifier import Normalised
from bdscan.net.fit import autocast, crop_and_flip
from bdscan.train._stages import Losses

BATCHES = 12  # a turn, after one that warms up
TURNS = 5  # of each loop, one after the other, so that both meet the same load


@dataclass(frozen=True)
class Pace:
    """Images a second of both loops (of processor time on a CPU, which a busy machine does not distort)."""

    bare: float
    trained: float
    arch: str
    side: int
    batch: int

    @property
    def share(self) -> float:
        return self.trained / self.bare

    def json(self) -> dict[str, str | float]:
        return {**vars(self), "share": self.share}


def measure_pace(arch: str, side: int, batch: int, device: torch.device) -> Pace:
    """By turns, after one that warms up."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCHES * batch, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    net = Normalised(fresh(arch, 10, (3, side, side)), (0.5,) * 3, (0.25,) * 3).to(device)
    loops = {
        "bare": partial(_bare, net, images, labels, batch),
        "trained": partial(_trained, net, images, labels, batch),
    }
    for loop in loops.values():
        loop()
    spent: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(TURNS):
        for name, loop in loops.items():
            spent[name].append(_timed(loop, device))
    rates = {name: len(images) / statistics.median(times) for name, times in spent.items()}
    return Pace(**rates, arch=arch, side=side, batch=batch)


def _timed(loop: Callable[[], None], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begun = clock()
    loop()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def _bare(net: Normalised, images: Tensor, labels: Tensor, batch: int) -> None:
    """Forward, backward and nothing else, on one batch that is there already."""
    net.train().requires_grad_(True).to(memory_format=torch.channels_last)
    device = net.mean.device
    pixels = images[:batch].to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
    targets = labels[:batch].to(device)
    for _ in range(len(images) // batch):
        with autocast(device):
            value = F.cross_entropy(net(pixels).float(), targets)
        net.zero_grad(set_to_none=True)
        value.backward()


def _trained(net: Normalised, images: Tensor, labels: Tensor, batch: int) -> None:
    """An epoch as `plain` trains it: drawn, shifted, mirrored, its losses written down, the weights moved."""
    data = ImageSet(images, labels)
    case = TrainCase(
        fresh=lambda: net,
        data=data,
        classes=10,
        augment=crop_and_flip,
        seed=0,
        progress=lambda done, total, what: None,
        checkpoint=TrainingCheckpoint(None, {}),
    )
    losses = Losses(len(data), 1, batch, net.mean.device)
    case.train_stage("pace", net, data, epochs=1, batch=batch, rate=1e-6, decay=0.0, objective=losses)
