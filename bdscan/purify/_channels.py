"""Channels that can be taken out of a net for good: where they are made, and what makes them zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bdscan.net.activations import ACTIVATIONS
from bdscan.net.classifier import Classifier

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
TOLERANCE = 1e-4  # of the largest logit: what rounding alone may move

Channel = tuple[str, int]  # the site's name, and which of its channels


@dataclass(frozen=True)
class Site:
    """A module that makes one map a channel, and the convolution that feeds it if it is a norm."""

    name: str
    channels: int
    axis: int = 1  # of the channels in what comes out; -1 for the neurons of a transformer
    feeder: str = ""


def sites(suspect: Classifier) -> tuple[Site, ...]:
    """In the order in which they run: norms with weights of their own, convolutions that feed no such norm, and
    linear layers whose output goes, at every position, straight into an activation."""
    modules = dict(suspect.net.net.named_modules())
    kinds = (*NORMS, nn.Conv2d, nn.Linear)
    watched = [n for n, m in modules.items() if isinstance(m, kinds) or type(m).__module__ == ACTIVATIONS]
    producers: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no later one takes their identity
    found: dict[str, Site] = {}

    def look(name: str, module: nn.Module, taken: tuple[Tensor, ...], output: Tensor) -> None:
        before, _ = producers.get(id(taken[0]), ("", None))
        site = _site(name, module, before, modules.get(before), output)
        if site is not None:
            found.pop(site.feeder, None)
            found.setdefault(site.name, site)
        producers[id(output)] = name, output

    with suspect.hooked(watched, look):
        suspect.run_once()
    return tuple(site for site in found.values() if site.name != suspect.head)


def _site(name: str, module: nn.Module, before: str, source: nn.Module | None, output: Tensor) -> Site | None:
    if isinstance(module, NORMS):
        if module.weight is None or output.dim() != 4:
            return None
        return Site(name, len(module.weight), feeder=before if isinstance(source, nn.Conv2d) else "")
    if isinstance(module, nn.Conv2d):
        cuts = module.stride == module.kernel_size and module.stride[0] > 1  # an image into patches
        return None if cuts or output[0, 0].numel() == 1 else Site(name, module.out_channels)
    if isinstance(module, nn.Linear) or output.dim() < 3 or not isinstance(source, nn.Linear):
        return None
    return Site(before, source.out_features, axis=-1)


@contextmanager
def peaks(suspect: Classifier, where: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """The l-inf of what an activation leaves of each channel's map (images x channels), at the last call."""
    recorded: dict[str, Tensor] = {}
    axes = {site.name: site.axis for site in where}

    def record(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        recorded[name] = output.detach().float().movedim(axes[name], 1).flatten(2).amax(2).relu()

    with suspect.hooked(axes, record):
        yield recorded


def by_site(channels: Iterable[Channel]) -> dict[str, list[int]]:
    grouped: dict[str, list[int]] = {}
    for name, index in channels:
        grouped.setdefault(name, []).append(index)
    return grouped


@torch.no_grad()
def zero(suspect: Classifier, channels: Iterable[Channel]) -> None:
    """Set to zero all weights that make these channels: the first axis of each is theirs."""
    for name, indices in by_site(channels).items():
        for parameter in suspect.module(name).parameters(recurse=False):
            parameter[indices] = 0


@torch.no_grad()
def restore(suspect: Classifier, original: Classifier, channels: Iterable[Channel]) -> None:
    for name, indices in by_site(channels).items():
        ours, theirs = (net.module(name).parameters(recurse=False) for net in (suspect, original))
        for parameter, original_weights in zip(ours, theirs, strict=True):
            parameter[indices] = original_weights[indices]


@torch.no_grad()
def with_feeders(
    suspect: Classifier, where: Sequence[Site], channels: Sequence[Channel], pixels: Tensor
) -> tuple[Channel, ...]:
    """The channels and those of the convolutions before them, where nothing else reads these (a shortcut may)."""
    feeders, everything = {site.name: site.feeder for site in where}, list(channels)
    before = suspect(pixels)
    for name, indices in by_site(channels).items():
        feeder = feeders[name]
        if not feeder:
            continue
        behind, untouched = [(feeder, index) for index in indices], suspect.clone()
        zero(suspect, behind)
        if (suspect(pixels) - before).abs().max() <= TOLERANCE * before.abs().max():
            everything += behind
        else:
            restore(suspect, untouched, behind)
    return tuple(everything)
