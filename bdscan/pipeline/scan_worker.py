"""A scan in a process of its own: what goes there, what it does, what comes back. JSON and arrays, never pickles."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import astuple
from pathlib import Path

import numpy as np

from bdscan.facts.problem import Problem
from bdscan.gate import cache_form
from bdscan.pipeline.line_worker import serve
from bdscan.pipeline.options import Options
from bdscan.pipeline.scan import Notice, Scanner, ScanResult, open_cache

_REPORT, _NOTICES, _STDERR, _PROBLEM = "report", "notices", "stderr", "problem"  # names among the report's arrays


def main() -> None:
    """Scans what stdin names."""
    serve(_prepare)


def _prepare(order: str) -> Callable[[str], None]:
    scanner = read_order(order)

    def scan(line: str) -> None:
        name, result_file = json.loads(line)
        stderr = io.StringIO()
        try:
            with redirect_stderr(stderr):
                result = scanner.scan(name)
        except Problem as problem:
            write_problem(Path(result_file), problem)
        else:
            write_result(Path(result_file), result, stderr.getvalue())

    return scan


def order_of(scanner: Scanner) -> str:
    """How the models are to be looked at, on one line."""
    options = {name: value for name, value in vars(scanner.options).items() if name != "show"}
    cache = str(scanner.cache.folder) if scanner.cache else None
    return json.dumps({"options": options, "cache": cache, "max_bytes": scanner.max_bytes}, default=str)


def read_order(order: str) -> Scanner:
    """The same on the other side."""
    document = json.loads(order)
    fields, cache = document["options"], document["cache"]
    classes = Path(fields["classes"]) if fields["classes"] else None
    options = Options(**{**fields, "classes": classes, "probes": tuple(fields["probes"])})
    return Scanner(options, open_cache(Path(cache), options) if cache else None, document["max_bytes"])


def write_result(file: Path, result: ScanResult, stderr: str) -> None:
    """The report, and what else there is to say to the person at the terminal."""
    report, arrays = cache_form.packed("", result.report)
    notices = json.dumps([astuple(notice) for notice in result.notices]).encode()
    texts = {_REPORT: report, _NOTICES: notices, _STDERR: stderr.encode("utf-8", "surrogateescape")}
    np.savez(file, **{name: np.frombuffer(text, np.uint8) for name, text in texts.items()}, **arrays)  # type: ignore[arg-type]


def write_problem(file: Path, problem: Problem) -> None:
    """Wrong usage, which ends everything."""
    text = json.dumps([problem.message, problem.hint, problem.status]).encode()
    np.savez(file, **{_PROBLEM: np.frombuffer(text, np.uint8)})  # type: ignore[arg-type]


def read_result(file: Path) -> ScanResult:
    """What the process wrote; raises the problem where there was one that concerns all."""
    with np.load(file, allow_pickle=False) as arrays:
        if _PROBLEM in arrays:
            message, hint, status = json.loads(arrays[_PROBLEM].tobytes())
            raise Problem(message, hint=hint, status=status)
        report = cache_form.unpacked("", arrays[_REPORT].tobytes(), arrays)
        notices = tuple(Notice(*fields) for fields in json.loads(arrays[_NOTICES].tobytes()))
        stderr = arrays[_STDERR].tobytes().decode("utf-8", "surrogateescape")
    assert report is not None  # it was written by the same version
    return ScanResult(report, notices, stderr)
