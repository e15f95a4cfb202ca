"""Jobs of the bench, each in a process of its own: what is done stays done, and a crash costs one job."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from bdscan import __version__
from bdscan.bench.workers.engine import Command, Engine, JobEnd, ProcessEngine, worker_command
from bdscan.bench.workers.ray import RayEngine
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem
from bdscan.pipeline.pool import ProcessPool

SCHEMA = "bdscan.bench.result/1"
PROCESSES = "processes"  # the engine that everybody has
Json = dict[str, Any]
Result = Json  # a result file: `schema`, `key`, `job`, `command`, `seconds`, `failure`, `outcome`


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker is given: never the truth about the model."""

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

    def asked(self) -> Json:
        """All that the result depends on beside the model's bytes, which count wherever they lie."""
        return {**asdict(self), "model": ""}

    def lacking(self, result: Result) -> bool:
        """Whether something is gone that was to stay beside the result."""
        return False

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.{self.method}.json"


def key_of(*request: object) -> str:
    """Of what was asked of this version."""
    return hashlib.sha256(json.dumps([__version__, *request], sort_keys=True).encode()).hexdigest()


def run(
    jobs: Sequence[Job],
    results: Path,
    *,
    workers: int = 1,
    command: Command = worker_command,
    engine: str = PROCESSES,
    command_line: str = "",
    on_result: Callable[[Result, int, int], None] = lambda result, done, total: None,
) -> list[Result]:
    """The results of all jobs, in their order: those already in the folder, and the others as they come."""
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"cannot write to `{results}`: {error.strerror}", status=USAGE) from None
    finished = {job: result for job in jobs if (result := done(job, results)) is not None}
    with ProcessPool(workers) as pool:
        if missing := [job for job in jobs if job not in finished]:
            running = _engine(engine, workers, command, pool)
            try:
                waiting = {pool.submit(_result_of, job, running, results, command_line): job for job in missing}
                for future in as_completed(waiting):
                    finished[waiting[future]] = future.result()
                    on_result(future.result(), len(finished), len(jobs))
            finally:  # also when the user has had enough
                pool.stop()
                running.stop()
    return [finished[job] for job in jobs]


def done(job: Job, results: Path) -> Result | None:
    """The result of an earlier run of the very same job, unless that failed."""
    try:
        result = json.loads(job.file(results).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(result, dict) and result.get("key") == job.key and result.get("failure") is None
    return result if same and not job.lacking(result) else None


def _engine(name: str, workers: int, command: Command, pool: ProcessPool) -> Engine:
    """Processes of this machine, or Ray: here (`ray`) or on a cluster (`ray:ADDRESS`)."""
    kind, _, address = name.partition(":")
    if name == PROCESSES:
        return ProcessEngine(pool, command)
    if kind == "ray":
        return RayEngine(address or None, workers, command)
    raise Problem(f"`--engine {name}` is no engine", hint="processes, ray or ray:ADDRESS", status=USAGE)


def _result_of(job: Job, engine: Engine, results: Path, command_line: str) -> Result:
    """The result, as it is in its file."""
    begun = time.monotonic()
    try:
        key = job.key
        end = engine.do(json.dumps(asdict(job)), may_use_gpu=job.device != "cpu")
    except OSError as error:  # a model that is gone costs its own job, not those of the others
        key, end = "", JobEnd(f"cannot read `{error.filename}`: {error.strerror}", None)
    result: Result = {
        "schema": SCHEMA,
        "key": key,
        "job": asdict(job),
        "command": command_line,
        "seconds": round(time.monotonic() - begun, 2),
        "failure": end.failure,
        "outcome": None if end.outcome is None else json.loads(end.outcome),
    }
    text = json.dumps(result, indent=1)
    _write(job.file(results), text)
    return cast(Result, json.loads(text))  # the same, to the last bit, as when it is read again


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    with AtomicFiles(synced=False) as files:
        files.temporary(path).write_text(text + "\n", encoding="utf-8")
