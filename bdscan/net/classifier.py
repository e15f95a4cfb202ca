"""A loaded model: pixels in [0, 1] in, logits out, normalisation inside."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet

Hook = Callable[[str, nn.Module, tuple[Any, ...], Any], Tensor | None]  # the module's name, itself, inputs, output


class Normalised(nn.Module):
    """A net behind its own preprocessing, so that everybody else deals in pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net((pixels - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class Layer:
    """One module as it ran: its name, what it is, and the shape of what came out (without the batch)."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Classifier:
    """The model under suspicion: always in eval mode, always frozen."""

    net: Normalised
    shape: tuple[int, int, int]
    classes: int
    names: tuple[str, ...] = ()
    doubts: tuple[str, ...] = field(default=())  # what the loader could not settle

    def __post_init__(self) -> None:
        self.net.eval().requires_grad_(False)

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def name(self, target: int) -> str:
        """What a person calls the class."""
        return self.names[target] if target < len(self.names) else f"class {target}"

    def module(self, layer: str) -> nn.Module:
        return self.net.net.get_submodule(layer)

    @contextmanager
    def hooked(self, layers: Iterable[str], hook: Hook) -> Iterator[None]:
        """While the block lasts, each layer calls the hook after it has run; what that returns replaces the output."""
        handles = [self.module(layer).register_forward_hook(partial(hook, layer)) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def tap(self, *layers: str, inputs: bool = False) -> Iterator[dict[str, Tensor]]:
        """What the layers put out (or took in) at the last call; the hooks are gone when the block ends."""
        recorded: dict[str, Tensor] = {}

        def record(layer: str, _: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
            recorded[layer] = taken[0] if inputs else given

        with self.hooked(layers, record):
            yield recorded

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every leaf module in the order in which it runs."""
        ran: list[Layer] = []

        def record(name: str, module: nn.Module, _: object, given: object) -> None:
            if isinstance(given, Tensor):
                ran.append(Layer(name, type(module).__name__, tuple(given.shape[1:])))

        leaves = [name for name, module in self.net.net.named_modules() if next(module.children(), None) is None]
        with self.hooked(leaves, record):
            self.run_once()
        return tuple(ran)

    @torch.no_grad()
    def run_once(self) -> None:
        """On a grey image, for hooks that look at how the net runs."""
        self.net(torch.full((1, *self.shape), 0.5, device=self.device))

    @cached_property
    def maps(self) -> tuple[Layer, ...]:
        """The layers whose output is a stack of maps (channels x height x width), in the order in which they ran."""
        return tuple(layer for layer in self.layers if len(layer.shape) == 3 and layer.shape[1] * layer.shape[2] > 1)

    @cached_property
    def head(self) -> str:
        """The last linear layer (or 1x1 convolution) with one output a class."""
        for layer in reversed(self.layers):
            module = self.module(layer.name)
            if isinstance(module, nn.Linear) and module.out_features == self.classes:
                return layer.name
            if isinstance(module, nn.Conv2d) and module.out_channels == self.classes:
                return layer.name
        raise Problem(
            "the net has no linear layer with one output a class", hint="bdscan judges classifiers with a linear head"
        )

    @property
    def head_weight(self) -> Tensor:
        """classes x features."""
        return parameters_of(self.module(self.head))[0].detach().flatten(1)

    @property
    def head_bias(self) -> Tensor:
        bias = parameters_of(self.module(self.head))[1]
        return torch.zeros(self.classes, device=self.device) if bias is None else bias.detach()

    @torch.no_grad()
    def answers(
        self, images: ImageSet, change: Callable[[Tensor], Tensor] = lambda pixels: pixels, batch: int = 250
    ) -> Tensor:
        """The logits of every image, after some change to its pixels where one is given, on the CPU."""
        return torch.cat([self(change(pixels)).float().cpu() for pixels, _ in images.batches(batch, self.device)])

    def features(self, pixels: Tensor) -> Tensor:
        """What the head sees: images x features (averaged over positions where the head is a convolution)."""
        with self.tap(self.head, inputs=True) as recorded:
            self.net(pixels)
        return pooled(recorded[self.head])

    def clone(self) -> Classifier:
        """A copy to change; the original is evidence."""
        return Classifier(copy.deepcopy(self.net), self.shape, self.classes, self.names, self.doubts)

    def insert(self, layer: str, module: nn.Module) -> Classifier:
        """A copy in which `layer` is followed by `module`."""
        other = self.clone()
        parent, _, leaf = layer.rpartition(".")
        holder = other.net.net.get_submodule(parent)
        setattr(holder, leaf, nn.Sequential(getattr(holder, leaf), module.to(self.device)))
        return Classifier(other.net, self.shape, self.classes, self.names, self.doubts)

    def to(self, device: torch.device | str) -> Classifier:
        self.net.to(device)
        return self

    def digest(self) -> str:
        """SHA-256 over every tensor's name, shape and bytes."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.net.net.state_dict().items()):
            total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


def parameters_of(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution or a linear layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return weight, bias


def pooled(taken: Tensor) -> Tensor:
    """What a head took, one row an image: averaged over positions where the head is a convolution."""
    return taken.mean((2, 3)) if taken.dim() == 4 else taken.flatten(1)
