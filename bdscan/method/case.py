"""What a method is given: no more than its stage has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bdscan.facts.effort import Effort
from bdscan.facts.evidence import Array, RecoveredTrigger
from bdscan.facts.finding import Finding, Run
from bdscan.facts.progress import Progress, silent
from bdscan.verdict.joint import Joint, of_runs

if TYPE_CHECKING:  # a file is looked at without torch
    from bdscan.images.image_set import ImageSet
    from bdscan.load.contents import Contents
    from bdscan.net.classifier import Classifier
    from bdscan.net.subspace import OwnSpaces


SubspaceCache = dict[tuple[int, int, float, int, int], "tuple[OwnSpaces | None, Classifier, ImageSet]"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Earlier:
    """What was found before, and what every stage goes by."""

    runs: tuple[Run, ...] = ()  # the probes that ran before
    effort: Effort = "standard"
    seed: int = 0
    progress: Progress = field(default=silent)  # also stops an overdue method

    def joint(self) -> Joint | None:
        """What all findings so far say of each class; None where no probe has compared the classes."""
        return of_runs(self.runs)

    def scores_of(self, family: str) -> list[Array]:
        """The classes' scores in each finding of this family of probes."""
        found = (finding for run in self.runs if run.family == family for finding in run.findings)
        return [finding.classes.scores for finding in found if finding.classes is not None]

    def triggers_of_classes(self) -> Iterator[tuple[str, Mapping[int, RecoveredTrigger]]]:
        """Each form, and the smallest triggers of that form, where they were found for several classes."""
        for finding in (finding for run in self.runs for finding in run.findings):
            if finding.classes is not None and len(finding.classes.triggers) > 1:
                triggers = finding.classes.triggers
                yield next(iter(triggers.values())).form or "", triggers

    def triggers(self) -> tuple[Finding, ...]:
        """The recovered triggers worth a closer look: those put to the test, else the most suspicious one."""
        found = [f for run in self.runs for f in run.findings if f.target is not None and f.trigger is not None]
        tested = tuple(f for f in found if f.pictures is not None and f.pictures.stamped is not None)
        return tested or tuple(sorted(found, key=lambda f: 1.0 if f.p_value is None else f.p_value)[:1])


@dataclass(frozen=True, eq=False, kw_only=True)
class FileCase(Earlier):
    """For probes that look at the file, before anything is loaded."""

    contents: Contents


@dataclass(frozen=True, eq=False, kw_only=True)
class NetCase(Earlier):
    """For probes that look at the net, with clean images or without."""

    suspect: Classifier
    clean: ImageSet | None = None  # images to work with; None when the user has none
    subspaces: SubspaceCache = field(default_factory=dict)

    def own_spaces(self, *, share: float, batch: int) -> OwnSpaces | None:
        """`bdscan.net.subspace.own_spaces` of the suspect; what one probe has had made, the next one finds."""
        from bdscan.net.subspace import own_spaces

        if self.clean is None:
            return None
        key = (id(self.suspect), id(self.clean), share, batch, self.seed)
        if key not in self.subspaces:
            made = own_spaces(
                self.suspect, self.clean, share=share, batch=batch, seed=self.seed, progress=self.progress
            )
            self.subspaces[key] = (made, self.suspect, self.clean)  # kept alive, so that no id comes again
        return self.subspaces[key][0]


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageCase(NetCase):
    """For probes that need clean images."""

    clean: ImageSet
    held_out: ImageSet  # to be judged by: what is recovered from `clean` is measured here


@dataclass(frozen=True, eq=False, kw_only=True)
class PurifyCase(Earlier):
    """For purifiers: the images by which the cure is judged are not among what they see."""

    suspect: Classifier
    clean: ImageSet
