"""What the options of `bdscan bench` may be."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

RESULTS = Path("bench-results")  # where result files go unless the user says otherwise


class Effort(StrEnum):
    """How long the user is ready to wait."""

    fast = "fast"
    standard = "standard"
    thorough = "thorough"


class Baseline(StrEnum):
    """What to compare with."""

    cleanse = "cleanse"
