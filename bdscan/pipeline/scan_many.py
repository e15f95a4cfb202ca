"""Every model that was named, in the order of the names: one after another, or side by side in processes.

What goes to a process and comes back is JSON and arrays, never pickles.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import NamedTuple

import numpy as np

from bdscan.facts.failure import STOPPED, Failure
from bdscan.facts.problem import Problem
from bdscan.gate.apply import GateOptions, apply_gate
from bdscan.gate.cache import packed, unpacked
from bdscan.load.source.addresses import shown
from bdscan.load.source.gather import Gathered
from bdscan.pipeline.options import Options
from bdscan.pipeline.pool import LineWorker, ProcessPool, python_command, serve
from bdscan.pipeline.scan import Notice, Scanner, ScanResult, open_cache
from bdscan.report import Report

WORKER = "from bdscan.pipeline.scan_many import main; main()"
_REPORT, _NOTICES, _STDERR, _PROBLEM = "report", "notices", "stderr", "problem"  # names among the report's arrays
_HINT = "look at it alone, or with fewer jobs where memory is short"


def scan_many(gathered: Gathered, scanner: Scanner, gate: GateOptions, jobs: int = 1) -> Iterator[ScanResult]:
    """One result for each name, also for one behind which there is no model; Ctrl-C ends all that are at work."""
    jobs = min(jobs, len(gathered.models))
    unread = (
        ScanResult.unread(path, Failure.refused(problem.message), Notice(problem.message, problem.hint))
        for path, problem in gathered.problems
    )
    scanned = _side_by_side(gathered.models, scanner, jobs) if jobs > 1 else _one_by_one(gathered.models, scanner)
    for result in chain(unread, scanned):
        yield replace(result, report=apply_gate(result.report, gate))


def _one_by_one(names: Sequence[str], scanner: Scanner) -> Iterator[ScanResult]:
    stopped, problem = False, None
    for name in names:
        try:
            result = _not_begun(name) if stopped else scanner.scan(name)
        except Problem as usage:  # it concerns all, but what the other files would do is told first
            problem = problem or usage
            continue
        stopped |= any(run.failure == STOPPED for run in result.report.runs)
        yield result
    if problem is not None:
        raise problem


def _side_by_side(names: Sequence[str], scanner: Scanner, jobs: int) -> Iterator[ScanResult]:
    with ProcessPool(jobs) as pool:
        parallel = _ParallelScan(pool, scanner, jobs, len(names))
        waiting = [pool.threads.submit(parallel.scan, number, name) for number, name in enumerate(names)]
        finished, problem = 0, None
        try:
            for name, future in zip(names, waiting, strict=True):
                answer = future.result()
                finished += 1
                try:
                    result = _read(shown(name), answer)
                except Problem as usage:
                    problem = problem or usage
                    continue
                yield result
        except KeyboardInterrupt:
            pool.stop()
            yield from map(_not_begun, names[finished:])
        if problem is not None:
            raise problem


def _not_begun(name: str) -> ScanResult:
    return ScanResult.unread(shown(name), STOPPED)


def _read(name: str, answer: _Answer) -> ScanResult:
    """What a process left behind, read when its turn has come: until then it lies on disk."""
    if answer.failure is None:
        result = read_result(answer.file)
        answer.file.unlink()
        return result
    notice = Notice(f"{name}: {answer.failure}", _HINT)
    try:
        early = read_result(_early(answer.file)).report
        return ScanResult.cut_short(name, early, answer.failure, notice)
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):  # it had not come that far
        return ScanResult.unread(name, answer.failure, notice)


def _early(file: Path) -> Path:
    """Where a process says what the file by itself shows: loading it may be the end of the process."""
    return file.with_suffix(".early.npz")


class _Answer(NamedTuple):
    """The file that a process was to write, and why it did not."""

    file: Path
    failure: Failure | None


class _ParallelScan:
    """As many workers as there are jobs; one that ends is replaced when the next model has its turn."""

    def __init__(self, pool: ProcessPool, scanner: Scanner, jobs: int, count: int) -> None:
        self._pool, self._show, self._count = pool, scanner.options.show, count
        self._order = order_of(scanner)
        self._idle: SimpleQueue[LineWorker | None] = SimpleQueue()
        for _ in range(jobs):
            self._idle.put(None)
        self._lock, self._at_work, self._done = Lock(), list[str](), 0

    def scan(self, number: int, name: str) -> _Answer:
        worker, file = self._idle.get(), self._pool.folder / f"{number}.npz"
        self._show_progress(begun=name)
        try:
            worker = worker or LineWorker(self._pool, python_command(WORKER), self._order)
            failure = worker.do(json.dumps([name, str(file)]))
        except OSError as error:
            failure = Failure.ours(f"no process could be started to look at it: {error.strerror}")
        self._idle.put(worker if failure is None else None)
        self._show_progress(ended=name)
        return _Answer(file, failure)

    def _show_progress(self, begun: str | None = None, ended: str | None = None) -> None:
        with self._lock:
            if begun is not None:
                self._at_work.append(begun)
            if ended is not None:
                self._at_work.remove(ended)
                self._done += 1
            names = ", ".join(Path(shown(name)).name for name in self._at_work)
            self._show(f"{self._done} of {self._count} done", self._done, self._count, names)


def main() -> None:
    """Scans what stdin names."""
    serve(_prepare)


def _prepare(order: str) -> Callable[[str], None]:
    scanner = read_order(order)

    def scan(line: str) -> None:
        name, result_file = json.loads(line)
        early = _early(Path(result_file))

        def examined(report: Report) -> None:
            write_result(early, ScanResult(report), "")

        stderr = io.StringIO()
        try:
            with redirect_stderr(stderr):
                result = replace(scanner, options=replace(scanner.options, examined=examined)).scan(name)
        except Problem as problem:
            text = json.dumps([problem.message, problem.hint, problem.status]).encode()  # ends everything
            np.savez(result_file, **{_PROBLEM: np.frombuffer(text, np.uint8)})  # type: ignore[arg-type]
        else:
            write_result(Path(result_file), result, stderr.getvalue())
        early.unlink(missing_ok=True)

    return scan


def order_of(scanner: Scanner) -> str:
    """How the models are to be looked at, on one line."""
    options = scanner.options.settled
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
    report, arrays = packed("", result.report)
    notices = json.dumps([astuple(notice) for notice in result.notices]).encode()
    texts = {_REPORT: report, _NOTICES: notices, _STDERR: stderr.encode("utf-8", "surrogateescape")}
    np.savez(file, **{name: np.frombuffer(text, np.uint8) for name, text in texts.items()}, **arrays)  # type: ignore[arg-type]


def read_result(file: Path) -> ScanResult:
    """What the process wrote; raises the problem where there was one that concerns all."""
    with np.load(file, allow_pickle=False) as arrays:
        if _PROBLEM in arrays:
            message, hint, status = json.loads(arrays[_PROBLEM].tobytes())
            raise Problem(message, hint=hint, status=status)
        report = unpacked("", arrays[_REPORT].tobytes(), arrays)
        notices = tuple(Notice(*fields) for fields in json.loads(arrays[_NOTICES].tobytes()))
        stderr = arrays[_STDERR].tobytes().decode("utf-8", "surrogateescape")
    assert report is not None  # it was written by the same version
    return ScanResult(report, notices, stderr)
