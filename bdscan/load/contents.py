"""What a file holds, found out without torch and without running anything in it."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bdscan.load import folders, formats
from bdscan.load.danger import Danger
from bdscan.problem import Problem

__all__ = ["Contents", "Danger", "survey"]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The file as evidence: its hash, its kind, its dangers."""

    path: Path
    weights: Path  # the file with the tensors; `path` itself unless that is a model folder
    sha256: str  # of `weights`
    size: int
    format: str  # pytorch zip | pytorch legacy | bare pickle | safetensors | torchscript | pt2 | onnx
    dangers: tuple[Danger, ...] = ()
    config: Mapping[str, object] | None = None  # the config.json of a model folder
    pickles: int = 0  # how many were followed


def survey(path: str | Path) -> Contents:
    """Says what the file is and what it would do when loaded, by reading it; raises `Problem` where it is no model."""
    path = Path(path)
    folder = folders.resolve(path)
    try:
        with folder.weights.open("rb") as file:
            size = folder.weights.stat().st_size
            if size == 0:
                raise Problem(f"`{folder.weights}` is empty", hint="fetch the file again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found = formats.examine(data)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Problem(f"`{folder.weights}` cannot be read: {error.strerror}") from None
    except Problem as problem:
        if problem.message.startswith("`"):
            raise
        raise Problem(
            f"`{path}` cannot be judged: {problem.message}", hint=problem.hint, status=problem.status
        ) from None
    return Contents(
        path=path,
        weights=folder.weights,
        sha256=digest,
        size=size,
        format=found.format,
        dangers=(*folder.dangers, *sorted(found.dangers, key=lambda danger: -danger.level)),
        config=folder.config,
        pickles=found.pickles,
    )
