"""What all families of probes say about each class together.

Probes of one family look at the same thing: their p-values become one (`cauchy`). Families look at different things:
each adds ln(1 / 2p) to its class, and nothing where its p is above one half or not known. So agreement counts, and
what could not be told takes nothing away. On a clean net a part is nothing half of the time and else exponential; how
likely a sum of such parts is follows from that, and how far clean nets really go beyond it is measured: `stretch`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bdscan.facts.evidence import Array
from bdscan.facts.finding import Run
from bdscan.verdict.calibration import stretch
from bdscan.verdict.rules import MOST
from bdscan.verdict.statistics import cauchy, least_of_several, of_several, sum_tail

FILE = "file"  # the family of what is seen in the file, which says nothing of a class


@dataclass(frozen=True, eq=False)
class Joint:
    """Each family's part for every class, NaN where it knows nothing, and one p-value a class."""

    parts: Mapping[str, Array]
    p_values: Array

    @property
    def target(self) -> int:
        """The class that most speaks against."""
        return self.ranked[0]

    @property
    def ranked(self) -> list[int]:
        """The classes, the most suspicious first, and those of which nothing is known last."""
        ranked: list[int] = np.argsort(self.p_values, kind="stable").tolist()
        return ranked

    @property
    def adjusted(self) -> Array:
        """Each class's p, it being one of several."""
        return of_several(self.p_values)

    @property
    def over_all(self) -> float:
        return least_of_several(self.p_values)

    def p_in(self, family: str, target: int) -> float:
        """What one family by itself says of a class; one half where it says nothing or less."""
        part = self.parts[family][target]
        return MOST if np.isnan(part) else MOST * math.exp(-part)

    def pointing(self, target: int, p: float) -> tuple[str, ...]:
        """The families that by themselves point to a class."""
        return tuple(sorted(family for family in self.parts if self.p_in(family, target) <= p))

    def told(self, target: int) -> str:
        """Who adds how much, the most first."""
        parts = {family: float(values[target]) for family, values in self.parts.items() if values[target] > 0}
        ranked = sorted(parts, key=lambda family: (-parts[family], family))
        return ", ".join(f"{family} {parts[family]:.1f}" for family in ranked) or "nothing"


def of_runs(runs: Sequence[Run], to_come: Iterable[str] = ()) -> Joint | None:
    """Of all findings so far; None where no probe has compared the classes.

    Families that are still to come count as silent: whatever they will say, no class can look less suspicious for it.
    """
    found: dict[str, list[Array]] = {}
    for run in runs:
        for finding in run.findings:
            if run.family != FILE and finding.classes is not None and finding.classes.p_values is not None:
                found.setdefault(run.family or run.probe, []).append(finding.classes.p_values)
    if found:
        silent = np.full(len(next(iter(found.values()))[0]), MOST)
        found = {family: [silent] for family in to_come} | found
    return together(found)


def together(p_values: Mapping[str, Sequence[Array]], stretched: float | None = None) -> Joint | None:
    """From each family's p-values, NaN where they are not known; None where none is."""
    parts = {family: _part(found) for family, found in sorted(p_values.items())}
    if not parts or np.isnan(list(parts.values())).all():
        return None
    table = np.stack(list(parts.values()))
    total, count = np.nansum(table, 0), np.isfinite(table).sum(0)
    scale = stretch() if stretched is None else stretched
    tails = [sum_tail(float(one) / scale, int(n)) if n else math.nan for one, n in zip(total, count, strict=True)]
    return Joint(parts, np.array(tails))


def _part(found: Sequence[Array]) -> Array:
    return np.array([-math.log(cauchy(column) / MOST) for column in np.stack(found).T])
