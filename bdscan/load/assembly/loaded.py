"""What loading a file gives: the net, what it was found to be, and what could not be settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # files can be surveyed without torch, so torch comes with the first load
    from torch import Tensor

    from bdscan.images.image_set import ImageSet
    from bdscan.net.classifier import Classifier


@dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
    """The net, what it was found to be, and what could not be settled."""

    suspect: Classifier
    clean: ImageSet | None
    format: str
    arch: str
    normalize: str
    tensors_loaded: int
    tensors_total: int
    clean_accuracy: float | None = None
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    inferred: bool = False  # whether the images told its structure, and no name, graph or source does
    wrapper: str | None = None
    prefix: str = ""
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None  # from the file's names to the net's
