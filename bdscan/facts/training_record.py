"""What a training came to: from which data, what stood out in them, and what was done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bdscan.facts.evidence import Array
from bdscan.facts.finding import Level
from bdscan.facts.treatment import Change

Curves = Mapping[str, tuple[float, ...]]  # mean loss, epoch by epoch, of each group of images


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The images that were trained on."""

    path: str
    sha256: str  # over shape, pixels and labels as they were trained on
    images: int
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class IsolationRecord:
    """What stood out in the data."""

    isolated: int
    images: int
    per_class: tuple[int, ...]
    target: int | None
    level: Level
    message: str
    threshold: float | None
    p_value: float | None
    curves: Curves = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class UnlearningRecord:
    """How the unlearning of isolated images went."""

    rounds: int
    obeyed: Change  # isolated images taken for their label
    mistaken: float  # images of other classes that are taken for that label
    accuracy: Change  # on images kept back
    stopped: str  # why it ended


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Everything that `train` did and measured."""

    method: str
    settings: Mapping[str, object]
    seconds: float
    data: DataRecord
    kept_back: int  # images that no step of the training used
    augmentation: str = ""
    notes: tuple[str, ...] = ()
    curves: Curves = field(default_factory=dict)
    isolation: IsolationRecord | None = None  # None where the method does not look
    unlearning: UnlearningRecord | None = None
    output: str | None = None
    sha256: str | None = None
    suspects: str | None = None  # where the table of suspects was written


@dataclass(frozen=True, kw_only=True, eq=False)
class ContactSheet:
    """The first of the isolated images, and others of their class to compare with."""

    isolated: Array
    labels: Array  # of the isolated
    others: Array
