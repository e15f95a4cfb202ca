"""Trains every weight of a net on the images of a case: the stage that several purifiers share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bdscan.method.case import PurifyCase
from bdscan.net.fit import Objective, Schedule, fit
from bdscan.net.training_plan import TrainingPlan


def fine_tune(
    case: PurifyCase,
    net: nn.Module,
    plan: TrainingPlan,
    what: str,
    *,
    rate: float,
    decay: float = 5e-4,
    schedule: Schedule = "one-cycle",
    objective: Objective | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
) -> None:
    """Train every weight of `net` on the case's images, and say how far it is."""
    net.requires_grad_(True)
    fit(
        net,
        case.clean.images,
        case.clean.labels,
        epochs=plan.epochs,
        batch=plan.batch,
        augment=plan.augment,
        rate=rate,
        decay=decay,
        schedule=schedule,
        seed=case.seed,
        objective=objective,
        after_step=after_step,
        progress=lambda done, total: case.progress(done, total, what),
    )
    net.requires_grad_(False)
