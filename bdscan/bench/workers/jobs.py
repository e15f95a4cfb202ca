"""One process a job: what is done stays done, and a crash costs one job."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from bdscan import __version__
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem

SCHEMA = "bdscan.bench.result/1"
PROCESSES = "processes"  # the engine that everybody has
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker is told: never the truth about the model."""

    name: str
    method: str  # inspect | cleanse | purify
    model: str
    clean: str | None = None
    arch: str = "auto"
    normalize: str = "auto"
    probes: tuple[str, ...] = ()
    effort: str = "standard"
    budget: float | None = None  # seconds
    device: str = "auto"
    seed: int = 0
    steps: int = 1000  # of the baseline, for each class

    @property
    def key(self) -> str:
        """The same for the same work on the same bytes by the same version."""
        with Path(self.model).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return key_of(digest, self.asked())

    def asked(self) -> dict[str, Any]:
        """All that the result depends on beside the model's bytes, which count wherever they lie."""
        return {**asdict(self), "model": ""}

    def lacking(self, result: Result) -> bool:
        """Whether something is gone that was to stay beside the result."""
        return False

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.{self.method}.json"


def key_of(*told: object) -> str:
    """Of what was asked of this version."""
    return hashlib.sha256(json.dumps([__version__, *told], sort_keys=True).encode()).hexdigest()


Command = Callable[[Path, Path], list[str]]  # from a job's file and its outcome's to a command line


def worker(job: Path, outcome: Path) -> list[str]:
    """The command that does one job."""
    return [sys.executable, "-m", "bdscan.bench.workers.worker", str(job), str(outcome)]


def run(
    jobs: Sequence[Job],
    results: Path,
    *,
    workers: int = 1,
    command: Command = worker,
    engine: str = PROCESSES,
    said: str = "",
    tell: Callable[[Result, int, int], None] = lambda result, done, total: None,
) -> list[Result]:
    """The results of all jobs, in their order: those already in the folder, and the others as they are made."""
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"cannot write to `{results}`: {error.strerror}", status=USAGE) from None
    found = {job: result for job in jobs if (result := done(job, results)) is not None}
    missing = [job for job in jobs if job not in found]
    running = _engine(engine, workers, command) if missing else _Processes(workers, command)
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_done_by, running, job, results, said): job for job in missing}
        try:
            for future in as_completed(waiting):
                found[waiting[future]] = future.result()
                tell(future.result(), len(found), len(jobs))
        finally:  # also when the user has had enough
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
    return [found[job] for job in jobs]


def done(job: Job, results: Path) -> Result | None:
    """The result of an earlier run of the very same job, unless that failed."""
    try:
        result = json.loads(job.file(results).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(result, dict) and result.get("key") == job.key and result.get("failure") is None
    return result if same and not job.lacking(result) else None


class Engine(Protocol):
    """Where the workers work."""

    def do(self, job: Job) -> tuple[str | None, Result | None]:
        """Why the job failed, or its outcome."""

    def stop(self) -> None:
        """End all that is at work."""


def _engine(name: str, workers: int, command: Command) -> Engine:
    """Processes of this machine, or Ray: here (`ray`) or on a cluster (`ray:ADDRESS`)."""
    kind, _, address = name.partition(":")
    if name == PROCESSES:
        return _Processes(workers, command)
    if kind != "ray":
        raise Problem(f"`--engine {name}` is no engine", hint="processes, ray or ray:ADDRESS", status=USAGE)
    from bdscan.bench.workers.ray import OnRay

    return OnRay(address or None, workers, command)


def _done_by(engine: Engine, job: Job, results: Path, said: str) -> Result:
    """The result, as it is in its file."""
    begun = time.monotonic()
    try:
        key = job.key
        failure, made = engine.do(job)
    except OSError as error:  # a model that is gone costs its own job, not those of the others
        key, failure, made = "", f"cannot read `{error.filename}`: {error.strerror}", None
    result: Result = {
        "schema": SCHEMA,
        "key": key,
        "job": asdict(job),
        "command": said,
        "seconds": round(time.monotonic() - begun, 2),
        "failure": failure,
        "outcome": made,
    }
    text = json.dumps(result, indent=1)
    _write(job.file(results), text)
    return cast(Result, json.loads(text))  # the same, to the last bit, as when it is read again


class _Processes:
    """The workers at work."""

    def __init__(self, workers: int, command: Command) -> None:
        self.command = command
        self.alive: set[subprocess.Popen[str]] = set()
        self.stopped = False
        threads = str(max(1, (os.cpu_count() or 1) // workers))  # more than there are cores slow each other down
        self.environment = {"OMP_NUM_THREADS": threads, **os.environ}

    def do(self, job: Job) -> tuple[str | None, Result | None]:
        with tempfile.TemporaryDirectory(prefix="bdscan-") as folder:
            told, outcome = Path(folder, "job.json"), Path(folder, "outcome.json")
            told.write_text(json.dumps(asdict(job)), encoding="utf-8")
            failure = self._wait(self.command(told, outcome))
            return failure, json.loads(outcome.read_text(encoding="utf-8")) if failure is None else None

    def _wait(self, command: list[str]) -> str | None:
        """Why the process failed, if it did."""
        # A session of its own: Ctrl-C must not make a worker hand in half a report as a whole one.
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        self.alive.add(process)
        if self.stopped:
            process.kill()
        _, spoken = process.communicate()
        self.alive.discard(process)
        return failed(process.returncode, spoken)

    def stop(self) -> None:
        self.stopped = True
        for process in tuple(self.alive):
            process.kill()


def failed(status: int, spoken: str) -> str | None:
    """A worker's exit status and its last word, unless all went well."""
    lines = [line.strip() for line in spoken.splitlines() if line.strip()]
    return f"exit status {status}: {lines[-1] if lines else 'no word'}" if status else None


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    with AtomicFiles(synced=False) as files:
        files.temporary(path).write_text(text + "\n", encoding="utf-8")
