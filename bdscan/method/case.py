"""What a method is given: the suspect, the clean images and what was found before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bdscan.facts.finding import Array, Finding, Run

if TYPE_CHECKING:  # `artifact` reads files without torch
    from bdscan.images.image_set import ImageSet
    from bdscan.load.contents import Contents
    from bdscan.net.classifier import Classifier


def _silent(done: int, total: int, what: str) -> None:
    pass


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """All that a method may look at."""

    contents: Contents | None = None
    suspect: Classifier | None = None  # None for probes that need only the file
    clean: ImageSet | None = None  # images to work with; None when the user has none
    held_out: ImageSet | None = None  # images to be judged by: what is recovered from `clean` is measured here
    runs: tuple[Run, ...] = ()  # the probes that ran before
    effort: Literal["fast", "standard", "thorough"] = "standard"
    seed: int = 0
    progress: Callable[[int, int, str], None] = field(
        default=_silent
    )  # done, total, what is being tried; stops an overdue probe

    def findings(self, probe: str) -> tuple[Finding, ...]:
        """What an earlier probe found."""
        return tuple(finding for run in self.runs if run.probe == probe for finding in run.findings)

    def p_values(self) -> list[Array]:
        """One p-value a class, from each finding that has them."""
        return [f.arrays["p_values"] for run in self.runs for f in run.findings if "p_values" in f.arrays]

    def triggers(self) -> tuple[Finding, ...]:
        """The recovered triggers worth a closer look: those put to the test, else the most suspicious one."""
        found = [f for run in self.runs for f in run.findings if f.target is not None and _FORMS & set(f.arrays)]
        tested = tuple(f for f in found if "stamped" in f.arrays)
        return tested or tuple(sorted(found, key=lambda f: 1.0 if f.p_value is None else f.p_value)[:1])


_FORMS = {"pattern", "change", "flow"}  # one of these is in the arrays of every recovered trigger
