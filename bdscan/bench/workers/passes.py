"""How many images went through a net: a cost that does not depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from bdscan.net.classifier import Normalised


@dataclass
class Passes:
    """Images through a whole net, and how many of them for a gradient. Parts of a net run alone are not counted."""

    forward: int = 0
    gradient: int = 0

    def json(self) -> dict[str, int]:
        return {"passes": self.forward, "gradients": self.gradient}


@contextmanager
def counted() -> Iterator[Passes]:
    """Count every image that enters any net at its normalisation, copies included."""
    passes = Passes()

    def count(module: nn.Module, _: object, logits: Tensor) -> None:
        if isinstance(module, Normalised):
            passes.forward += len(logits)
            passes.gradient += len(logits) * logits.requires_grad

    handle = register_module_forward_hook(count)
    try:
        yield passes
    finally:
        handle.remove()
