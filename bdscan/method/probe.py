"""Probes look at a suspect and never touch it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal

from bdscan.facts.finding import Finding
from bdscan.method.case import Case

EFFORTS = ("fast", "standard", "thorough")


class Probe(ABC):
    """A question put to a suspect: a generator, so that what was found before a failure is kept."""

    needs: ClassVar[Literal["file", "model", "images"]] = "images"
    family: ClassVar[str] = ""  # see Run.family
    after: ClassVar[tuple[str, ...]] = ()  # probes whose findings this one uses, when they run
    effort: ClassVar[Literal["fast", "standard", "thorough"]] = "fast"  # the least effort at which it runs unasked

    @abstractmethod
    def __call__(self, case: Case) -> Iterator[Finding]: ...
