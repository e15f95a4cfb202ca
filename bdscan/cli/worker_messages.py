"""What goes to a process that looks at models, and what comes back: JSON and arrays, never pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdscan.facts.problem import Problem

if TYPE_CHECKING:
    from bdscan.cli.scan import Scan
    from bdscan.report import Report

DONE = "done\n"  # all that is said on the way back: the outcome itself lies in a file
_TEXT, _SPOKEN, _PROBLEM = "report", "spoken", "problem"


def order(scan: Scan) -> str:
    """How the models are to be looked at."""
    options = {name: value for name, value in vars(scan.options).items() if name != "show"}
    cache = str(scan.cache.folder) if scan.cache else None
    return json.dumps({"options": options, "cache": cache, "most": scan.most}, default=str)


def scan_of(order: str) -> Scan:
    """The same on the other side."""
    from bdscan.cli.scan import Scan, opened
    from bdscan.pipeline import Options

    told = json.loads(order)
    given: dict[str, Any] = told["options"]
    classes = Path(given["classes"]) if given["classes"] else None
    options = Options(**{**given, "classes": classes, "probes": tuple(given["probes"])})
    return Scan(options, opened(Path(told["cache"]), options) if told["cache"] else None, told["most"])


def write(to: Path, report: Report, spoken: str) -> None:
    """The report, and what was said of it to the person at the terminal."""
    import numpy as np

    from bdscan.gate import cache_form

    text, arrays = cache_form.packed("", report)
    said = spoken.encode("utf-8", "surrogateescape")
    words = {_TEXT: np.frombuffer(text, np.uint8), _SPOKEN: np.frombuffer(said, np.uint8)}
    np.savez(to, **words, **arrays)  # type: ignore[arg-type]


def refuse(to: Path, problem: Problem) -> None:
    """Wrong usage, which ends everything."""
    import numpy as np

    told = json.dumps([problem.message, problem.hint, problem.status]).encode()
    np.savez(to, **{_PROBLEM: np.frombuffer(told, np.uint8)})  # type: ignore[arg-type]


def read(came: Path) -> tuple[Report, str]:
    """The report and what was said; raises the problem where there was one that concerns all."""
    import numpy as np

    from bdscan.gate import cache_form

    with np.load(came, allow_pickle=False) as held:
        if _PROBLEM in held:
            message, hint, status = json.loads(held[_PROBLEM].tobytes())
            raise Problem(message, hint=hint, status=status)
        report = cache_form.unpacked("", held[_TEXT].tobytes(), held)
        spoken = held[_SPOKEN].tobytes().decode("utf-8", "surrogateescape")
    assert report is not None  # it was written by the same version
    return report, spoken
