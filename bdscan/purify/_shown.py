"""The triggers a cure may be guided by: those that probes showed, else fresh ones for the class they suspect."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from bdscan.facts.problem import Problem
from bdscan.method.case import PurifyCase
from bdscan.purify._unlearn import COPIES, trigger_pool, unlearn_targets
from bdscan.triggers.forms import Stamp, stamper


@dataclass(frozen=True, eq=False)
class Shown:
    """A recovered trigger, and the class it leads to."""

    target: int
    stamp: Stamp


def triggers(case: PurifyCase, steps: int) -> tuple[Shown, ...]:
    """Raises `Problem` where nothing was recovered and no class is suspected."""
    demonstrated = (finding for run in case.runs for finding in run.findings if finding.demonstrated)
    recorded = tuple(
        Shown(finding.target, stamper(finding.trigger.pixels))
        for finding in demonstrated
        if finding.trigger is not None and finding.target is not None
    )
    return recorded or _afresh(case, steps)


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
        Shown(kind.target, partial(kind.form.stamp_all, arm=copy)) for kind in pool.kinds for copy in range(COPIES)
    )
