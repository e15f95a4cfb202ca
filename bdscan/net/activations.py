"""Channels at work: how large their maps are, and what becomes of the answer when they are held or silenced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bdscan.facts.finding import Array
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
    handles = []
    for layer in layers:
        module = suspect.module(layer)
        rectify = type(module).__module__ != ACTIVATIONS

        def keep(_: nn.Module, __: object, maps: Tensor, layer: str = layer, rectify: bool = rectify) -> None:
            recorded[layer] = norms_of(maps.detach().float(), rectify=rectify)

        handles.append(module.register_forward_hook(keep))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def altered(suspect: Classifier, layer: str, channels: Sequence[int], value: float) -> Iterator[None]:
    """While the block lasts, these channels of the layer hold this value at every position."""

    def change(_: nn.Module, __: object, maps: Tensor) -> Tensor:
        changed = maps.clone()
        changed[:, list(channels)] = value
        return changed

    handle = suspect.module(layer).register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


class Tally:
    """Mean, spread and peak of a stream of images; its size does not depend on their number."""

    def __init__(self) -> None:
        self.count = 0
        self._total: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0
        self._peak: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """images x channels x 3."""
        exact = values.double().cpu()
        self.count += len(exact)
        self._total = self._total + exact.sum(0)
        self._squares = self._squares + exact.square().sum(0)
        peak = exact.amax(0)
        self._peak = peak if self._peak is None else torch.maximum(self._peak, peak)

    @property
    def mean(self) -> Array:
        assert isinstance(self._total, Tensor)
        found: Array = (self._total / self.count).numpy()
        return found

    @property
    def peak(self) -> Array:
        assert self._peak is not None
        found: Array = self._peak.numpy()
        return found

    @property
    def spread(self) -> Array:
        assert isinstance(self._total, Tensor)
        assert isinstance(self._squares, Tensor)
        found: Array = (self._squares / self.count - (self._total / self.count).square()).clamp(min=0).sqrt().numpy()
        return found
