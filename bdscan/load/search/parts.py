"""The layers that a file holds tensors of, by their names and shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from bdscan.load.nets.candidate import Outline

_MAX_PARTS = 200  # layers; nets with more are of families that have names
_OF_A_LAYER = frozenset({"weight", "bias", "running_mean", "running_var"})
_DIGITS = re.compile(r"(\d+)")


class Kind(StrEnum):
    """What a layer does, as far as its tensors tell."""

    CONV = "conv"
    LINEAR = "linear"
    NORM = "norm"
    PRELU = "prelu"


@dataclass(frozen=True)
class Part:
    """A layer by its name in the file."""

    name: str
    kind: Kind
    shape: tuple[int, ...]  # of its weight
    bias: bool = False
    running: bool = False  # whether it keeps the statistics of what it was trained on
    affine: bool = True

    @property
    def given(self) -> int:
        """Channels or features that it puts out."""
        return self.shape[0]

    @property
    def kernel(self) -> tuple[int, int]:
        return self.shape[2], self.shape[3]

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def number(self) -> int | None:
        """Its place, where it stands in a sequence."""
        leaf = self.name.rpartition(".")[2]
        return int(leaf) if leaf.isdecimal() else None

    def takes(self, width: int) -> bool:
        """Whether so many channels or features can go in; a convolution may work in groups, a linear layer on maps."""
        if self.kind is Kind.LINEAR:
            return self.shape[1] % width == 0
        groups = width // self.shape[1]
        return width % self.shape[1] == 0 and self.given % groups == 0


def parts_of(outline: Outline) -> list[Part] | None:
    """In the file's order; None where it holds what no layer of these kinds has."""
    tensors: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in outline.items():
        module, _, leaf = name.rpartition(".")
        if not module or leaf not in _OF_A_LAYER or 0 in shape:
            return None
        tensors.setdefault(module, {})[leaf] = shape
    parts = [_part(name, held) for name, held in tensors.items()]
    known = [part for part in parts if part is not None]
    return known if 0 < len(parts) == len(known) <= _MAX_PARTS else None


def _part(name: str, held: dict[str, tuple[int, ...]]) -> Part | None:
    running = "running_mean" in held and "running_var" in held
    weight = held.get("weight") or held.get("running_mean") if running else held.get("weight")
    if not weight:
        return None
    bias = "bias" in held
    if running or (bias and len(weight) in (1, 3)):
        return Part(name, Kind.NORM, weight, bias, running, "weight" in held) if len(weight) != 2 else None
    kind = {1: Kind.PRELU, 2: Kind.LINEAR, 4: Kind.CONV}.get(len(weight))
    return Part(name, kind, weight, bias) if kind else None


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts `layer10` behind `layer9`."""
    return [(piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for piece in _DIGITS.split(name)]
