"""A process that does one piece of work after another: it reads an order, then a line for each piece, and says `done`.

Both ends of the pipe. Results do not go through it: the process writes them to a file that the line names.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from bdscan.facts.failure import Failure
from bdscan.pipeline.pool import ProcessPool

DONE = "done\n"
_EXIT_SECONDS = 10  # for a process that no longer answers to end by itself, so that there is an exit status to report


class LineWorker:
    """The asking end."""

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
