"""Purifiers take a suspect and give back a new net that works and no longer obeys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from bdscan.method.case import PurifyCase
from bdscan.method.registry import Presets
from bdscan.net.classifier import Classifier


@dataclass(frozen=True, eq=False, kw_only=True)
class Purified:
    """A new net of the architecture that the suspect came with, and what was done to get there."""

    suspect: Classifier
    notes: tuple[str, ...] = ()  # sentences for the report: what followed from the net and the data, and why


class Purifier(ABC):
    """A cure. It never changes `case.suspect`, and knows no trigger but those that probes recovered
    (`case.triggers()`)."""

    cost: ClassVar[int] = 1  # `auto` tries the cheap before the dear
    baseline: ClassVar[bool] = False  # there to be compared with: `auto` does not hope for it
    presets: ClassVar[Presets] = {}  # `paper`: the published settings, written out

    @abstractmethod
    def __call__(self, case: PurifyCase) -> Purified:
        """Raises `Problem` where the method does not fit the net or the evidence."""
