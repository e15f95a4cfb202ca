"""What stands for a library and its functions while a text is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Library:
    """A module that is not the text's own, by its dotted path."""

    path: str


@dataclass(frozen=True)
class TorchFunction:
    """A function of torch that is vouched for."""

    name: str
    run: Callable[..., object]


@dataclass(frozen=True, eq=False)
class TorchMethod:
    """A method of a tensor that is vouched for, with the tensor."""

    name: str
    tensor: Tensor


@dataclass(frozen=True)
class Decorator:
    """One that changes nothing here, with arguments or without."""


@dataclass(frozen=True)
class Context:
    """What may stand behind `with` and changes nothing here."""


@dataclass(frozen=True)
class Silent:
    """Types for annotations, loggers, names of pretrained weights: whatever is asked of it gives itself."""


@dataclass(frozen=True)
class Kind:
    """A type that is only asked for in `isinstance`."""

    type: type | tuple[type, ...]
