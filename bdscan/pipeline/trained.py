"""What a training came to, as the report tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bdscan import method
from bdscan.data import CleanSet
from bdscan.finding import Array
from bdscan.pipeline.lot import Lot
from bdscan.train import Trained, Trainer

if TYPE_CHECKING:
    from bdscan.pipeline.train import Training

SHOWN = 60  # isolated images in the report: enough to see what they share


def told(
    data: str, lot: Lot, trainer: Trainer, trained: Trained, seconds: float, options: Training
) -> dict[str, object]:
    """The report's `training`."""
    return {
        "method": options.method,
        "settings": method.settings(trainer),
        "seconds": seconds,
        "data": {"path": data, "sha256": lot.images.digest(), "images": len(lot.images), "doubts": lot.images.doubts},
        "kept_back": len(trained.kept),
        "augmentation": lot.said,
        "notes": [*lot.notes, *trained.notes],
        "curves": trained.curves,
        "isolation": _isolation(lot, trained),
        "unlearning": trained.unlearning,
        "output": None,
        "sha256": None,
        "suspects": None,
    }


def _isolation(lot: Lot, trained: Trained) -> dict[str, object] | None:
    found = trained.isolation
    if found is None:
        return None
    evidence = found.evidence
    per_class = torch.bincount(lot.images.labels[found.isolated], minlength=lot.classes)
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


def sheet(images: CleanSet, trained: Trained) -> dict[str, Any]:
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
