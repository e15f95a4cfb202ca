"""From a surveyed file to a net that answers, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # files can be surveyed without torch, so torch comes with the first load
    from torch import Tensor

    from bdscan.data import CleanSet
    from bdscan.images import Source
    from bdscan.load.contents import Contents
    from bdscan.model import SuspectModel


@dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
    """The net, what it was found to be, and what could not be settled."""

    suspect: SuspectModel
    clean: CleanSet | None
    format: str
    arch: str
    normalize: str
    tensors_loaded: int
    tensors_total: int
    clean_accuracy: float | None = None
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    wrapper: str | None = None
    prefix: str = ""
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None  # from the file's names to the net's


def load(
    contents: Contents,
    *,
    arch: str = "auto",
    normalize: str = "auto",
    images: Source | None = None,
    classes: Path | None = None,
    device: str = "auto",
) -> Loaded:
    """Finds the net, its input size, its normalisation and its classes; raises `Problem` where it cannot."""
    from bdscan.load.assemble import assemble

    return assemble(contents, arch, normalize, images, classes, device)
