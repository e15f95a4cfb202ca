"""Work in processes of its own: what kills one process costs one piece of work, and none outlives the call.

Imports nothing heavy, so that a worker may be asked for before anything of that kind is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from bdscan.facts.failure import Failure

DONE = "done\n"
_EXIT_SECONDS = 10  # for a process that no longer answers to end by itself, so that there is an exit status to report
_PACKAGE_PARENT = Path(__file__).parent.parent.parent


def python_command(statements: str, *arguments: str) -> list[str]:
    """A Python that runs these statements of bdscan's own.

    Nothing is imported from the current directory, as `-m` would: that may be the very tree that is being judged.
    """
    find_bdscan = "import sys; sys.path.append(sys.argv.pop(1))"
    return [sys.executable, "-P", "-c", f"{find_bdscan}\n{statements}", str(_PACKAGE_PARENT), *arguments]


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessPool:
    """At most `size` processes at a time, and a folder for what they write, which goes away with the pool.

    The end of the `with` block, an early one too, drops what has not begun and ends
    what has.
    """

    def __init__(self, size: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="bdscan-", ignore_cleanup_errors=True)
        self.folder = Path(self._scratch.name)
        threads = str(max(1, cores() // size))  # more than there are cores slow each other down
        self.environment = {"OMP_NUM_THREADS": threads, **os.environ, "TMPDIR": str(self.folder)}
        self.threads = ThreadPoolExecutor(size)  # each waits for a process
        self._alive: set[subprocess.Popen[str]] = set()
        self._lock, self._stopped = Lock(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self.threads.shutdown()
        for process in tuple(self._alive):
            self.end(process)
        self._scratch.cleanup()

    def start(self, command: list[str], *, stdin: int | None, stdout: int, stderr: int | None) -> subprocess.Popen[str]:
        """A process of the pool's, which must be handed to `end`."""
        with self._lock:
            # A session of its own: Ctrl-C must not make it hand in half a result as a whole one.
            process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
            self._alive.add(process)
            if self._stopped:
                process.kill()
        return process

    def run(self, command: list[str]) -> tuple[int, str]:
        """Exit status and stderr of a process that does one piece of work."""
        process = self.start(command, stdin=None, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, stderr = process.communicate()
        finally:
            self.end(process)
        return process.returncode, stderr

    def end(self, process: subprocess.Popen[str]) -> None:
        """The process has ended and its pipes are shut."""
        process.kill()
        with contextlib.suppress(OSError), process:
            pass
        with self._lock:
            self._alive.discard(process)

    def stop(self) -> None:
        """Drops what has not begun and kills what has."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._stopped = True
            for process in self._alive:
                process.kill()


class LineWorker:
    """A process that does one piece of work after another: it reads an order, then a line for each, and says `done`.

    This is the asking end of the pipe, `serve` the working one. Results do not go through it: the process writes them
    to a file that the line names.
    """

    def __init__(self, pool: ProcessPool, command: list[str], order: str) -> None:
        self._pool = pool
        self._process = pool.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        self._unsent = order + "\n"

    def do(self, line: str) -> Failure | None:
        """Why it could not be done, after which the worker is of no use any more; None where it was."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended while nobody asked it for anything
            self._process.stdin.write(f"{self._unsent}{line}\n")
            self._process.stdin.flush()
            self._unsent = ""
        if self._process.stdout.readline() == DONE:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self._pool.end(self._process)
        return Failure.ours(f"the process that looked at it {_ending(self._process.returncode)}")


def serve(prepare: Callable[[str], Callable[[str], None]]) -> None:
    """The working end: `prepare` makes of the order what does the work of a line. Returns never."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(lines,), daemon=True).start()
    do = prepare(lines.get())
    while True:
        do(lines.get())
        answers.write(DONE)
        answers.flush()


def _listen(lines: SimpleQueue[str]) -> None:
    """Also while work is being done: when the asking process has gone, nobody waits for the answer."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    often = ", as happens when memory runs out" if -status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-status).name}{often}"
