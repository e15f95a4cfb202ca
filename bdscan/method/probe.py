"""Probes look at a suspect and never touch it. What a probe is, it says itself: nobody else names it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, ClassVar, Generic, Self, TypeVar

from bdscan.facts.effort import Effort
from bdscan.facts.finding import Finding
from bdscan.method.case import Earlier, FileCase, ImageCase, NetCase

CaseOf = TypeVar("CaseOf", bound=Earlier, contravariant=True)


class Stage(IntEnum):
    """When a probe looks, and what it is for: each stage may use what the stages before it found."""

    FILE = 0  # looks at the file, before anything is loaded
    ACCUSES = 1  # compares the classes
    DEMONSTRATES = 2  # tries to show a trigger, best for classes that stand accused
    EXPLAINS = 3  # shows how what was found works; evidence only


class Probe(ABC, Generic[CaseOf]):
    """A question put to a suspect: a generator, so that what was found before a failure is kept."""

    stage: ClassVar[Stage]
    family: ClassVar[str]  # see `Run.family`
    reads: ClassVar[tuple[str, ...]] = ()  # families of the same stage whose findings this probe uses
    statistics: ClassVar[tuple[str, ...]] = ()  # those of its findings that are calibrated on clean nets
    effort: ClassVar[Effort] = "fast"  # the least effort at which it runs unasked
    quick: ClassVar[bool] = False  # soon enough done to be the self-check's first look
    universal: ClassVar[bool] = True  # looks for triggers that work on all classes, as those of the self-check do

    @abstractmethod
    def __call__(self, case: CaseOf) -> Iterator[Finding]: ...

    def for_self_check(self, form: str | None) -> Self:
        """This probe as the self-check uses it: for triggers of this form in its first look, of any in its second."""
        return self


class FileProbe(Probe[FileCase]):
    """Looks at the file alone, without torch."""

    stage: ClassVar[Stage] = Stage.FILE
    family: ClassVar[str] = "file"


class NetProbe(Probe[NetCase]):
    """Looks at the net, with clean images or without."""


class ImageProbe(Probe[ImageCase]):
    """Needs clean images."""


AnyProbe = Probe[Any]


def in_order(probes: Mapping[str, AnyProbe]) -> list[str]:
    """Stage by stage; within one, no probe before those whose findings it reads."""
    done: list[str] = []
    for stage in Stage:
        waiting = sorted(name for name, probe in probes.items() if probe.stage is stage)
        while waiting:
            ready = [name for name in waiting if not _awaited(name, waiting, probes)]
            if not ready:
                raise ValueError(f"probes wait for one another: {waiting}")
            done.append(ready[0])
            waiting.remove(ready[0])
    return done


def _awaited(name: str, waiting: list[str], probes: Mapping[str, AnyProbe]) -> bool:
    reads = probes[name].reads
    return any(other != name and probes[other].family in reads for other in waiting)
