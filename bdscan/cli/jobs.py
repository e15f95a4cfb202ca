"""Several models side by side, each looked at in a process of its own: what kills one process costs one report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING

import typer

import bdscan
from bdscan.cli import output, worker_messages
from bdscan.cli.scan import Scan, unlooked
from bdscan.facts.failure import Failure
from bdscan.load.source.addresses import shown

if TYPE_CHECKING:
    from bdscan.report import Report

# Nothing is imported from where one stands, as `-m` would: that may be the very tree that is being judged.
_START = "import sys; sys.path.append(sys.argv[1]); from bdscan.cli.worker import main; main()"
_PATIENCE = 10  # seconds for a process that has said its last word to end by itself


def side_by_side(names: Sequence[str], scan: Scan, jobs: int) -> Iterator[Report]:
    """The reports in the order of the names; Ctrl-C ends all that are at work."""
    jobs = min(jobs, len(names))
    with tempfile.TemporaryDirectory(prefix="bdscan-", ignore_cleanup_errors=True) as folder:
        team = _Team(scan, jobs, Path(folder), len(names))
        with contextlib.closing(team), ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(team.look, number, name) for number, name in enumerate(names)]
            told = 0
            try:
                for name, future in zip(names, waiting, strict=True):
                    yield _told(shown(name), future.result())
                    told += 1
            except KeyboardInterrupt:
                team.stop()
                yield from map(unlooked, names[told:])
            finally:  # also where the reader has had enough
                pool.shutdown(wait=False, cancel_futures=True)
                team.stop()


def _told(name: str, came: Path | Failure) -> Report:
    """What a process left behind, read when its turn has come: until then it lies on disk."""
    if isinstance(came, Failure):
        output.say(f"{name}: {came}", "look at it alone, or with fewer jobs where memory is short")
        return output.unread(name, came)
    report, spoken = worker_messages.read(came)
    came.unlink()
    typer.echo(spoken, err=True, nl=False)
    return report


class _Team:
    """As many processes as there are jobs; one that ends is replaced."""

    def __init__(self, scan: Scan, jobs: int, folder: Path, count: int) -> None:
        self.scan, self.folder, self.count = scan, folder, count
        self.order, self.lock = worker_messages.order(scan), Lock()
        self.free: SimpleQueue[_Worker | None] = SimpleQueue()
        for _ in range(jobs):
            self.free.put(None)
        self.alive: set[_Worker] = set()
        self.environment = {"OMP_NUM_THREADS": str(max(1, _cores() // jobs)), **os.environ, "TMPDIR": str(folder)}
        self.at_work: list[str] = []
        self.done, self.stopped = 0, False

    def look(self, number: int, name: str) -> Path | Failure:
        """Where the outcome lies, or why there is none."""
        worker, came = self.free.get(), self.folder / f"{number}.npz"
        self._show(begun=name)
        try:
            worker = worker or self._hired()
            failure = worker.do(name, came)
        except OSError as error:
            failure = Failure.ours(f"no process could be started to look at it: {error.strerror}")
        if failure is not None:
            self._left(worker)
            worker = None
        self.free.put(worker)
        self._show(ended=name)
        return came if failure is None else failure

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for worker in self.alive:
                worker.process.kill()

    def close(self) -> None:
        for worker in self.alive:
            worker.close()

    def _hired(self) -> _Worker:
        with self.lock:
            worker = _Worker(self.order, self.environment)
            self.alive.add(worker)
            if self.stopped:
                worker.process.kill()
        return worker

    def _left(self, worker: _Worker | None) -> None:
        with self.lock:
            self.alive -= {worker}

    def _show(self, begun: str | None = None, ended: str | None = None) -> None:
        with self.lock:
            self.at_work += [begun] if begun is not None else []
            if ended is not None:
                self.at_work.remove(ended)
                self.done += 1
            what = ", ".join(Path(shown(name)).name for name in self.at_work)
            self.scan.options.show(f"{self.done} of {self.count} done", self.done, self.count, what)


class _Worker:
    """One process, which is told a name and a place and answers when the outcome lies there."""

    def __init__(self, order: str, environment: dict[str, str]) -> None:
        # A session of its own: Ctrl-C must not make it hand in half a report as a whole one.
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-P", "-c", _START, str(Path(bdscan.__file__).parent.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.first = order + "\n"

    def do(self, name: str, to: Path) -> Failure | None:
        """Why there is no outcome, or None."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended while nobody asked it for anything
            self.process.stdin.write(self.first + json.dumps([name, str(to)]) + "\n")
            self.process.stdin.flush()
            self.first = ""
        if self.process.stdout.readline() == worker_messages.DONE:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        self.close()
        return Failure.ours(f"the process that looked at it {_end(self.process.returncode)}")

    def close(self) -> None:
        """The process has ended and the pipes are shut."""
        self.process.kill()
        with contextlib.suppress(OSError), self.process:
            pass


def _end(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    often = ", as happens when memory runs out" if -status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-status).name}{often}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
