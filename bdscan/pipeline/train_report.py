"""What a training came to, as the report tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bdscan.facts.finding import Array
from bdscan.images.image_set import ImageSet
from bdscan.method import registry
from bdscan.method.trainer import Trainer, TrainResult
from bdscan.pipeline.training_data import TrainingData

if TYPE_CHECKING:
    from bdscan.pipeline.options import TrainOptions

SHOWN = 60  # isolated images in the report: enough to see what they share


def told(
    path: str, data: TrainingData, trainer: Trainer, trained: TrainResult, seconds: float, options: TrainOptions
) -> dict[str, object]:
    """The report's `training`."""
    return {
        "method": options.method,
        "settings": registry.settings(trainer),
        "seconds": seconds,
        "data": {
            "path": path,
            "sha256": data.images.digest(),
            "images": len(data.images),
            "doubts": data.images.doubts,
        },
        "kept_back": len(trained.kept),
        "augmentation": data.said,
        "notes": [*data.notes, *trained.notes],
        "curves": trained.curves,
        "isolation": _isolation(data, trained),
        "unlearning": trained.unlearning,
        "output": None,
        "sha256": None,
        "suspects": None,
    }


def _isolation(data: TrainingData, trained: TrainResult) -> dict[str, object] | None:
    found = trained.isolation
    if found is None:
        return None
    evidence = found.evidence
    per_class = torch.bincount(data.images.labels[found.isolated], minlength=data.classes)
    return {
        "isolated": int(found.isolated.sum()),
        "images": len(found.isolated),
        "per_class": per_class.tolist(),
        "target": evidence.target,
        "level": evidence.level,
        "message": evidence.message,
        "threshold": evidence.threshold,
        "p_value": evidence.p_value,
        "curves": found.curves,
    }


def sheet(images: ImageSet, trained: TrainResult) -> dict[str, Any]:
    """The first of the isolated, and as many of the other images of that class to compare with."""
    found = trained.isolation
    if found is None or not bool(found.isolated.any()):
        return {}
    order = found.score.argsort(stable=True)
    isolated = order[found.isolated[order]][:SHOWN]
    target = found.evidence.target
    others = order[~found.isolated[order] & (images.labels[order] == target)].flip(0)[: SHOWN // 5]

    def pictures(places: Tensor) -> Array:
        return images.images[places].permute(0, 2, 3, 1).numpy()

    return {
        "isolated": pictures(isolated),
        "labels": images.labels[isolated].numpy(),
        "others": pictures(others),
    }
