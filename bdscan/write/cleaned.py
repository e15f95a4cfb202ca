"""Writes a cleaned model in the form it came in: whole or not at all, the original untouched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch comes with the first file that is written
    from bdscan.load.assembly.loaded import Loaded
    from bdscan.load.contents import Contents
    from bdscan.net.classifier import Classifier
    from bdscan.write.written import Written


def ready(contents: Contents, loaded: Loaded, output: Path, *, onnx: Path | None = None) -> None:
    """Raises `Problem` for everything that would keep `write` from writing there and can be known beforehand."""
    from bdscan.write.targets import check

    check(contents, loaded, output, onnx)
    if contents.format == "onnx":
        from bdscan.write.onnx_weights import WeightMap

        WeightMap.find(contents.weights, loaded.suspect.net.net)


def write(
    contents: Contents,
    loaded: Loaded,
    cleaned: Classifier,
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
