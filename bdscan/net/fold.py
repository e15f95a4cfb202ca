"""Mixes of channels: linear layers that a net learns with, and that then become part of its own weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bdscan.net.classifier import Classifier, parameters_of

MIN_STRENGTH = 0.1  # of a layer's strongest direction: what it hardly puts out is not learned any faster for that
ROUNDING = 1e-9  # of the strongest, squared: below lies rounding
_FORWARDS = (nn.Conv2d.forward, nn.Linear.forward)  # a kind with one of its own may not use its weight as it stands


def foldable_layers(suspect: Classifier) -> tuple[str, ...]:
    """The layers, as they run, that can take over a mixing of the channels they put out: convolutions in one group,
    and linear layers over the channels of a map (which are 1x1 convolutions). Not the head: that would mix classes."""
    found: dict[int, str] = {}  # by weight: what two layers share is folded once
    for layer in suspect.layers:
        module = suspect.module(layer.name)
        if len(layer.shape) == 3 and _folds(module) and layer.name != suspect.head:
            found.setdefault(id(module.weight), layer.name)
    return tuple(found.values())


def _folds(module: nn.Module) -> bool:
    if type(module).forward not in _FORWARDS or module._parameters.get("weight") is None:
        return False
    return getattr(module, "groups", 1) == 1


def fold(module: nn.Module, mix: Tensor, shift: Tensor | None = None) -> None:
    """Give the layer the weights with which it puts out `mix` times its channels, plus `shift` if it has a bias."""
    weight, bias = parameters_of(module)
    exact = mix.double()
    with torch.no_grad():
        weight.copy_((exact @ weight.double().flatten(1)).view_as(weight))
        if bias is not None:
            moved = exact @ bias.double()
            bias.copy_(moved if shift is None else moved + shift.double())


class ChannelMix(nn.Module):
    """A mixing of the channels that a layer puts out, and a shift where the layer has a bias to take it.

    It is learned along the directions of the layer's own weights, each scaled to one: one rate then fits every layer,
    the one that trains the weights themselves.
    """

    directions: Tensor
    weight: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        weight, bias = parameters_of(layer)
        flat = weight.detach().double().flatten(1)
        strengths, axes = _axes(flat)
        directions = axes.T / strengths.clamp(min=MIN_STRENGTH * float(strengths.max()))[:, None]
        self.register_buffer("directions", directions.to(weight.dtype), persistent=False)
        self.register_buffer("weight", (directions @ flat).to(weight.dtype), persistent=False)
        self.learned = nn.Parameter(torch.zeros(len(flat), len(directions), dtype=weight.dtype, device=weight.device))
        self.offset = nn.Parameter(torch.zeros_like(self.learned[:, 0])) if bias is not None else None

    @property
    def mix(self) -> Tensor:
        """channels x channels; the identity before anything is learned."""
        learned = self.learned.detach().double()
        return torch.eye(len(learned), dtype=learned.dtype, device=learned.device) + learned @ self.directions.double()

    def shift(self, layer: nn.Module) -> Tensor | None:
        """One number a channel; it also takes back what the mixing does to the layer's bias."""
        bias = parameters_of(layer)[1]
        if self.offset is None or bias is None:
            return None
        mixed = self.learned.detach().double() @ (self.directions.double() @ bias.detach().double())
        return self.offset.detach().double() - mixed

    def through(self, layer: nn.Module) -> dict[str, Tensor]:
        """The layer's weights with the mix behind it: far less work than running the mix on maps."""
        weight, bias = parameters_of(layer)
        changed = {"weight": weight + (self.learned @ self.weight).view_as(weight)}
        if bias is not None and self.offset is not None:
            changed["bias"] = bias + self.offset
        return changed


def _axes(flat: Tensor) -> tuple[Tensor, Tensor]:
    """How strongly the layer puts out each of its directions, and these (a column each), by way of the smaller square:
    a layer that widens a map has few."""
    tall = flat.shape[0] > flat.shape[1]
    squares, axes = torch.linalg.eigh(flat.T @ flat if tall else flat @ flat.T)
    used = squares > ROUNDING * float(squares[-1])
    used[-1] = True
    strengths = squares[used].clamp(min=torch.finfo(flat.dtype).tiny).sqrt()
    return strengths, flat @ axes[:, used] / strengths if tall else axes[:, used]


class MixedNet(nn.Module):
    """A net with mixes: nothing else in it learns, but its batch norms may measure their statistics anew."""

    def __init__(self, suspect: Classifier, chosen: Sequence[str], *, measure: bool) -> None:
        super().__init__()
        self.net, self.measure = suspect.net, measure
        self.layers = {name: suspect.module(name) for name in chosen}
        self.mixes = nn.ModuleList(map(ChannelMix, self.layers.values()))

    def forward(self, pixels: Tensor) -> Tensor:
        changed = {}
        with torch.autocast(pixels.device.type, enabled=False):
            for (name, layer), channels in zip(self.layers.items(), self.mixes, strict=True):
                assert isinstance(channels, ChannelMix)
                changed.update({f"net.{name}.{kind}": tensor for kind, tensor in channels.through(layer).items()})
        logits: Tensor = functional_call(self.net, changed, (pixels,))
        return logits

    def train(self, mode: bool = True) -> MixedNet:
        """Only the batch norms ever leave eval mode: the net does not learn, so it needs no dropout."""
        super().train(mode)
        self.net.eval()
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and self.measure)
        return self

    def fold(self) -> None:
        """Make the mixes part of the net's own weights."""
        for layer, channels in zip(self.layers.values(), self.mixes, strict=True):
            assert isinstance(channels, ChannelMix)
            fold(layer, channels.mix, channels.shift(layer))
