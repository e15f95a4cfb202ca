"""Trainers take a new net and data nobody vouches for, and give the net back trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from bdscan.facts.finding import Finding
from bdscan.facts.progress import Progress
from bdscan.facts.training_record import UnlearningRecord
from bdscan.images.image_set import ImageSet
from bdscan.method.registry import Presets
from bdscan.net.checkpoint import TrainingCheckpoint
from bdscan.net.classifier import Normalised
from bdscan.net.fit import Augment, Objective, Schedule, fit


@dataclass(frozen=True, eq=False, kw_only=True)
class Isolation:
    """What stood out while the data were learned, image by image in the order of the data."""

    score: Tensor  # the lower, the sooner it was learned
    isolated: Tensor  # bool; none where nothing stands out
    evidence: Finding  # how strongly it speaks, and of which class
    curves: Mapping[str, tuple[float, ...]]  # mean loss of each group, epoch by epoch


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainResult:
    """What there is to say of the training; the net itself was trained in place."""

    kept: Tensor  # places of the images that were kept back: trained on by no step that made the net
    notes: tuple[str, ...] = ()  # sentences for the report
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # mean loss, epoch by epoch
    isolation: Isolation | None = None  # None where the method does not look
    unlearning: UnlearningRecord | None = None  # how it went, where something was unlearned


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainCase:
    """All that a trainer is given."""

    fresh: Callable[[], Normalised]  # the same new net each time, on the device it is to be trained on
    data: ImageSet  # labelled, and vouched for by nobody
    classes: int
    augment: Augment | None
    seed: int
    progress: Progress
    checkpoint: TrainingCheckpoint

    def train_stage(
        self,
        stage: str,
        net: Normalised,
        data: ImageSet,
        *,
        epochs: int,
        batch: int,
        rate: float,
        decay: float,
        schedule: Schedule = "one-cycle",
        augment: bool = True,
        objective: Objective | None = None,
        after_step: Callable[[nn.Module], None] | None = None,
        records: Mapping[str, Tensor] | None = None,
        lasting: bool = True,
    ) -> None:
        """One stage: train `net` in place on these images; what an earlier call has done of it is not done again.

        `records` are tensors that the objective writes to: they are kept and restored beside the net. Of a stage that
        is not `lasting` nothing is kept: it is short, and begins anew when the training is resumed.
        """
        unfinished = self.checkpoint.open(stage, net, records or {}) if lasting else None
        if lasting and unfinished is None:
            return
        net.requires_grad_(True)
        fit(
            net,
            data.images,
            data.labels,
            epochs=epochs,
            batch=batch,
            rate=rate,
            decay=decay,
            schedule=schedule,
            seed=self.seed,
            augment=self.augment if augment else None,
            objective=objective,
            after_step=after_step,
            progress=lambda done, total: self.progress(done, total, stage),
            checkpoint=unfinished,
        )
        net.requires_grad_(False)
        if unfinished is not None:
            unfinished.close()

    def once(self, stage: str, net: Normalised, records: Mapping[str, Tensor], work: Callable[[], None]) -> None:
        """`work`, which fills the records; if an earlier call has done it they, and the net, are as it left them."""
        unfinished = self.checkpoint.open(stage, net, records)
        if unfinished is not None:
            work()
            unfinished.close()


class Trainer(ABC):
    """A way to train. It sees the data and nothing else: no trigger, no target, no clean images."""

    looks: ClassVar[bool] = False  # whether it looks for images that do not belong there
    presets: ClassVar[Presets] = {}  # `paper`: the published settings, written out

    @abstractmethod
    def __call__(self, case: TrainCase) -> tuple[Normalised, TrainResult]:
        """Raises `Problem` where the data do not allow it."""
