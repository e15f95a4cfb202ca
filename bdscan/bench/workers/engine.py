"""Where jobs are done: each in a process of its own, on this machine or wherever an engine starts it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from bdscan.pipeline.pool import ProcessPool, python_command

Command = Callable[[Path, Path], list[str]]  # from a job's file and its outcome's to a command line


class JobEnd(NamedTuple):
    """How a job ended: one of the two is None."""

    failure: str | None
    outcome: str | None  # JSON


class Engine(Protocol):
    """Starts the process that does a job."""

    def do(self, job: str, *, may_use_gpu: bool) -> JobEnd:
        """Does the job, which is JSON; returns when it has ended."""

    def stop(self) -> None:
        """Ends all that is at work."""


class ProcessEngine:
    """Processes of this machine."""

    def __init__(self, pool: ProcessPool, command: Command) -> None:
        self._pool, self._command = pool, command

    def do(self, job: str, *, may_use_gpu: bool) -> JobEnd:
        return by_files(job, self._command, self._pool.run, self._pool.folder)

    def stop(self) -> None:
        self._pool.stop()


def worker_command(job: Path, outcome: Path) -> list[str]:
    """The command that does one job."""
    return python_command("from bdscan.bench.workers.worker import main; main()", str(job), str(outcome))


def by_files(
    job: str, command: Command, run: Callable[[list[str]], tuple[int, str]], folder: Path | None = None
) -> JobEnd:
    """Hands the job over in a file, and takes its outcome from another; `run` returns exit status and stderr."""
    with tempfile.TemporaryDirectory(prefix="bdscan-", dir=folder) as exchange:
        job_file, outcome_file = Path(exchange, "job.json"), Path(exchange, "outcome.json")
        job_file.write_text(job, encoding="utf-8")
        status, stderr = run(command(job_file, outcome_file))
        if status != 0:
            lines = [line.strip() for line in stderr.splitlines() if line.strip()]
            return JobEnd(f"exit status {status}: {lines[-1] if lines else 'no word'}", None)
        return JobEnd(None, outcome_file.read_text(encoding="utf-8"))
