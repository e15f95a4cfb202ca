"""What a training came to, as the report tells it."""

from __future__ import annotations

import torch
from torch import Tensor

from bdscan.facts.evidence import Array
from bdscan.facts.training_record import ContactSheet, DataRecord, IsolationRecord, TrainingRecord
from bdscan.images.image_set import ImageSet
from bdscan.method import registry
from bdscan.method.trainer import Trainer, TrainResult
from bdscan.pipeline.options import TrainOptions
from bdscan.pipeline.training_data import TrainingData

MAX_PICTURES = 60  # isolated images in the report: enough to see what they share


def record(
    path: str, data: TrainingData, trainer: Trainer, trained: TrainResult, seconds: float, options: TrainOptions
) -> TrainingRecord:
    """Everything but where it is written, which comes later."""
    images = data.images
    return TrainingRecord(
        method=options.method,
        settings=registry.settings(trainer),
        seconds=seconds,
        data=DataRecord(path=path, sha256=images.digest(), images=len(images), doubts=images.doubts),
        kept_back=len(trained.kept),
        augmentation=data.augmentation,
        notes=(*data.notes, *trained.notes),
        curves=trained.curves,
        isolation=_isolation(data, trained),
        unlearning=trained.unlearning,
    )


def _isolation(data: TrainingData, trained: TrainResult) -> IsolationRecord | None:
    found = trained.isolation
    if found is None:
        return None
    evidence = found.evidence
    per_class = torch.bincount(data.images.labels[found.isolated], minlength=data.classes)
    return IsolationRecord(
        isolated=int(found.isolated.sum()),
        images=len(found.isolated),
        per_class=tuple(per_class.tolist()),
        target=evidence.target,
        level=evidence.level,
        message=evidence.message,
        threshold=evidence.threshold,
        p_value=evidence.p_value,
        curves=found.curves,
    )


def sheet(images: ImageSet, trained: TrainResult) -> ContactSheet | None:
    """The first of the isolated, and as many of the other images of that class to compare with."""
    found = trained.isolation
    if found is None or not bool(found.isolated.any()):
        return None
    order = found.score.argsort(stable=True)
    isolated = order[found.isolated[order]][:MAX_PICTURES]
    target = found.evidence.target
    others = order[~found.isolated[order] & (images.labels[order] == target)].flip(0)[: MAX_PICTURES // 5]

    def pictures(places: Tensor) -> Array:
        return images.images[places].permute(0, 2, 3, 1).numpy()

    return ContactSheet(isolated=pictures(isolated), labels=images.labels[isolated].numpy(), others=pictures(others))
