"""Where the file that a verdict is about lies, told in a way that means the same on every machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from bdscan.report import Report

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # s3://..., models:/...; C:/ is a path


def judged(report: Report) -> tuple[str, str | None]:
    """Path and SHA-256 of the file that the verdict is about: the treated one, where it was written."""
    if report.treatment is not None and report.treatment.output is not None:
        return report.treatment.output, report.treatment.sha256
    return report.subject.path, report.subject.sha256


def repository() -> Path:
    """The nearest folder above with a `.git`, else the working directory."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def inside(path: str, root: Path) -> str | None:
    """The path below that folder, with `/` between its parts; None for an address and for what lies elsewhere."""
    if _ADDRESS.match(path):
        return None
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays the name that the repository knows
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else None


def uri(path: str, root: Path) -> str:
    """Relative to that folder where it lies inside; an address stays one."""
    if _ADDRESS.match(path):
        return quote(path.encode("utf-8", "surrogateescape"), safe=":/?&=@%+~")
    below = inside(path, root)
    return Path(os.path.abspath(path)).as_uri() if below is None else quote(os.fsencode(below))  # noqa: PTH100
