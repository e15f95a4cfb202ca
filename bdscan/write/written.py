"""What was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Written:
    """What stands on the disk now, and what differs from the original besides the weights."""

    output: Path
    sha256: str  # of the file with the weights
    files: tuple[Path, ...]
    notes: tuple[str, ...]  # sentences for the report
