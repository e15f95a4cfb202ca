"""Where a net runs: `--device`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from bdscan.facts.problem import USAGE, Problem

if TYPE_CHECKING:
    import torch


class Device(StrEnum):
    """What the user may ask for."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def device_of(device: str) -> torch.device:
    """The one that is asked for."""
    import torch  # not for those who only read the command line

    if device == Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == Device.cuda and not torch.cuda.is_available():
        raise Problem("torch sees no CUDA device here", hint="--device cpu", status=USAGE)
    return torch.device(device)
