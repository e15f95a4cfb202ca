"""How the classes of one net compare: from a score a class to a finding, by way of p-values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdscan.facts.evidence import Array, ClassScores, Measure, RecoveredTrigger, p_measure
from bdscan.facts.finding import Finding, Level
from bdscan.verdict.calibration import p_values
from bdscan.verdict.rules import FOLLOW, GAP
from bdscan.verdict.statistics import least_of_several


@dataclass(frozen=True, eq=False)
class Comparison:
    """One score (large is suspicious) and one p-value a class; NaN where a class was not looked at."""

    scores: Array
    p_values: Array
    statistic: str | None = None  # None: clean nets were not measured in this score

    @classmethod
    def calibrated(cls, statistic: str, scores: Array) -> Comparison:
        """Against the spread that clean nets show in this statistic."""
        return cls(scores, p_values(statistic, scores), statistic)

    @property
    def target(self) -> int:
        """The class with the least p; of equals the one with the largest score."""
        return int(np.lexsort((-self.scores, self.p_values))[0])

    @property
    def over_all(self) -> float:
        """The least p, it being that of the best of all classes; 1 where nothing could be compared."""
        return least_of_several(self.p_values)

    def finding(
        self,
        message: str,
        threshold: float,
        *,
        margins: Array | None = None,
        triggers: Mapping[int, RecoveredTrigger] | None = None,
        **more: Any,
    ) -> Finding:
        """Suspect where some class stands out over all classes."""
        p = self.over_all
        return Finding(
            level=Level.SUSPECT if p < threshold else Level.NOTE,
            message=message,
            measure=p_measure(p, threshold),
            p_value=p,
            target=self.target,
            statistic=self.statistic,
            classes=ClassScores(scores=self.scores, p_values=self.p_values, margins=margins, triggers=triggers or {}),
            **more,
        )


def demonstration(
    message: str,
    mine: float,
    others: float,
    *,
    follow: float = FOLLOW,
    gap: float = GAP,
    proof: bool = True,
    **more: Any,
) -> Finding:
    """A trigger tried on images it was not made from, beside what no larger ones do for other classes.

    `proof` is whether it proves anything: among many triggers of a clean net one wins now and then.
    """
    demonstrated = proof and mine >= follow and mine - others >= gap
    return Finding(
        level=Level.BACKDOOR if demonstrated else Level.NOTE,
        message=message,
        measure=Measure(score=mine - others, threshold=gap),
        demonstrated=demonstrated,
        **more,
    )
