"""Channels at work: how large their maps are, and what becomes of the answer when they are held or silenced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.evidence import Array
from bdscan.net.classifier import Classifier

ACTIVATIONS = nn.ReLU.__module__  # torch keeps all of them in one place


def worth_measuring(suspect: Classifier) -> tuple[str, ...]:
    """The layers at which a channel's map is an activation: activations, else norms, else convolutions.

    An activation that runs at several places of the net is no one layer; then the norms before them are taken.
    """
    runs = Counter(layer.name for layer in suspect.maps)
    kinds = {name: suspect.module(name) for name in runs if name != suspect.head}
    active = [name for name, module in kinds.items() if type(module).__module__ == ACTIVATIONS]
    if active and all(runs[name] == 1 for name in active):
        return tuple(active)
    norms = [name for name, module in kinds.items() if "Norm" in type(module).__name__]
    return tuple(norms or [name for name, module in kinds.items() if isinstance(module, nn.Conv2d)])


def norms_of(maps: Tensor, *, rectify: bool) -> Tensor:
    """l-inf, l1 and l2 of each channel's map (images x channels x 3), the latter two divided by the map's size."""
    size = (maps.relu() if rectify else maps.abs()).flatten(2)
    return torch.stack([size.amax(2), size.mean(2), size.square().mean(2).sqrt()], dim=2)


@contextmanager
def measured(suspect: Classifier, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The norms of each layer's channels at the last call; taken as the net runs, so that no map is kept."""
    recorded: dict[str, Tensor] = {}

    def record(layer: str, module: nn.Module, _: object, maps: Tensor) -> None:
        recorded[layer] = norms_of(maps.detach().float(), rectify=type(module).__module__ != ACTIVATIONS)

    with suspect.hooked(layers, record):
        yield recorded


@contextmanager
def altered(suspect: Classifier, layer: str, channels: Sequence[int], value: float) -> Iterator[None]:
    """While the block lasts, these channels of the layer hold this value at every position."""

    def change(_: str, __: nn.Module, ___: object, maps: Tensor) -> Tensor:
        changed = maps.clone()
        changed[:, list(channels)] = value
        return changed

    with suspect.hooked([layer], change):
        yield


class Tally:
    """Mean, spread and peak of a stream of images; its size does not depend on their number."""

    def __init__(self) -> None:
        self.count = 0
        self._total = self._squares = torch.tensor(0.0, dtype=torch.double)
        self._peak = torch.tensor(-torch.inf, dtype=torch.double)

    def add(self, values: Tensor) -> None:
        """images x channels x 3."""
        exact = values.double().cpu()
        self.count += len(exact)
        self._total = self._total + exact.sum(0)
        self._squares = self._squares + exact.square().sum(0)
        self._peak = torch.maximum(self._peak, exact.amax(0))

    @property
    def mean(self) -> Array:
        return np.asarray(self._total / self.count)

    @property
    def peak(self) -> Array:
        return np.asarray(self._peak)

    @property
    def spread(self) -> Array:
        return np.asarray((self._squares / self.count - (self._total / self.count).square()).clamp(min=0).sqrt())
