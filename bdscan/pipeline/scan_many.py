"""Every model that was named, in the order of the names: one after another, or side by side in processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from bdscan.facts.failure import STOPPED, Failure
from bdscan.gate.apply import GateOptions, apply_gate
from bdscan.load.source.addresses import shown
from bdscan.load.source.gather import Gathered
from bdscan.pipeline.line_worker import LineWorker
from bdscan.pipeline.pool import ProcessPool, python_command
from bdscan.pipeline.scan import Notice, Scanner, ScanResult
from bdscan.pipeline.scan_worker import order_of, read_result

WORKER = "from bdscan.pipeline.scan_worker import main; main()"
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
    stopped = False
    for name in names:
        result = _not_begun(name) if stopped else scanner.scan(name)
        stopped |= result.stopped
        yield result


def _side_by_side(names: Sequence[str], scanner: Scanner, jobs: int) -> Iterator[ScanResult]:
    with ProcessPool(jobs) as pool:
        parallel = _ParallelScan(pool, scanner, jobs, len(names))
        waiting = [pool.threads.submit(parallel.scan, number, name) for number, name in enumerate(names)]
        finished = 0
        try:
            for name, future in zip(names, waiting, strict=True):
                yield _read(shown(name), future.result())
                finished += 1
        except KeyboardInterrupt:
            pool.stop()
            yield from map(_not_begun, names[finished:])


def _not_begun(name: str) -> ScanResult:
    return ScanResult.unread(shown(name), STOPPED)


def _read(name: str, answer: Path | Failure) -> ScanResult:
    """What a process left behind, read when its turn has come: until then it lies on disk."""
    if isinstance(answer, Failure):
        return ScanResult.unread(name, answer, Notice(f"{name}: {answer}", _HINT))
    result = read_result(answer)
    answer.unlink()
    return result


class _ParallelScan:
    """As many workers as there are jobs; one that ends is replaced when the next model has its turn."""

    def __init__(self, pool: ProcessPool, scanner: Scanner, jobs: int, count: int) -> None:
        self._pool, self._show, self._count = pool, scanner.options.show, count
        self._order = order_of(scanner)
        self._idle: SimpleQueue[LineWorker | None] = SimpleQueue()
        for _ in range(jobs):
            self._idle.put(None)
        self._lock, self._at_work, self._done = Lock(), list[str](), 0

    def scan(self, number: int, name: str) -> Path | Failure:
        """The file with the result, or why there is none."""
        worker, file = self._idle.get(), self._pool.folder / f"{number}.npz"
        self._show_progress(begun=name)
        try:
            worker = worker or LineWorker(self._pool, python_command(WORKER), self._order)
            failure = worker.do(json.dumps([name, str(file)]))
        except OSError as error:
            failure = Failure.ours(f"no process could be started to look at it: {error.strerror}")
        self._idle.put(worker if failure is None else None)
        self._show_progress(ended=name)
        return file if failure is None else failure

    def _show_progress(self, begun: str | None = None, ended: str | None = None) -> None:
        with self._lock:
            if begun is not None:
                self._at_work.append(begun)
            if ended is not None:
                self._at_work.remove(ended)
                self._done += 1
            names = ", ".join(Path(shown(name)).name for name in self._at_work)
            self._show(f"{self._done} of {self._count} done", self._done, self._count, names)
