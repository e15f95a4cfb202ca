"""The triggers a cure may be guided by: those that probes showed, else fresh ones for the class they suspect."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bdscan.facts.finding import Finding
from bdscan.facts.problem import Problem
from bdscan.method.case import PurifyCase
from bdscan.purify._unlearn import COPIES, trigger_pool, unlearn_targets
from bdscan.triggers.forms import Form, Stamp, stamper


@dataclass(frozen=True, eq=False)
class Shown:
    """A recovered trigger, and the class it leads to."""

    target: int
    stamp: Stamp


def triggers(case: PurifyCase, steps: int) -> tuple[Shown, ...]:
    """Raises `Problem` where nothing was recovered and no class is suspected."""
    found = [_shown(finding) for run in case.runs for finding in run.findings if finding.demonstrated]
    recorded = tuple(trigger for trigger in found if trigger is not None)
    return recorded or _afresh(case, steps)


def _shown(finding: Finding) -> Shown | None:
    if finding.trigger is None or finding.target is None:
        return None
    return Shown(finding.target, stamper(finding.trigger.pixels))


def _afresh(case: PurifyCase, steps: int) -> tuple[Shown, ...]:
    wanted = unlearn_targets(case)
    if not wanted:
        raise Problem(
            "no trigger was recovered and no class is suspected, so there is nothing to prune by",
            hint="take a method that needs no trigger, such as `fst`",
        )
    pool = trigger_pool(case, wanted, steps)
    assert pool is not None
    for kind in pool.kinds:
        for parameter in kind.form.parameters:
            parameter.requires_grad_(False)
    return tuple(
        Shown(kind.target, partial(_stamped, kind.form, copy)) for kind in pool.kinds for copy in range(COPIES)
    )


def _stamped(form: Form, copy: int, pixels: Tensor) -> Tensor:
    return form.stamp(pixels, torch.full((len(pixels),), copy, device=pixels.device))
