"""Writes a cleaned model in the form it came in: whole or not at all, the original untouched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch comes with the first file that is written
    from bdscan.load import Loaded
    from bdscan.load.contents import Contents
    from bdscan.model import SuspectModel


@dataclass(frozen=True, kw_only=True)
class Written:
    """What stands on the disk now, and what differs from the original besides the weights."""

    output: Path
    sha256: str  # of the file with the weights
    files: tuple[Path, ...]
    notes: tuple[str, ...]  # sentences for the report


def ready(contents: Contents, loaded: Loaded, output: Path, *, onnx: Path | None = None) -> None:
    """Raises `Problem` for everything that would keep `write` from writing there and can be known beforehand."""
    from bdscan.write.places import check

    check(contents, loaded, output, onnx)
    if contents.format == "onnx":
        from bdscan.write.onnx_weights import Way

        Way.find(contents.weights, loaded.suspect.net.net)


def write(
    contents: Contents,
    loaded: Loaded,
    cleaned: SuspectModel,
    output: Path,
    *,
    card: str | None = None,
    onnx: Path | None = None,
) -> Written:
    """The cleaned weights in the place of the old ones, read again and compared before they appear under their name.

    `card` is written beside the file, or as `README.md` into the folder; `onnx` names a second file, an export.
    """
    from bdscan.write.deliver import deliver

    return deliver(contents, loaded, cleaned, output, card, onnx)
