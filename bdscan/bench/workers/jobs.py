"""Jobs of the bench, each in a process of its own: what is done stays done, and a crash costs one job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import cast

from bdscan.bench.workers.engine import PROCESSES, Command, Engine, JobEnd, started, worker_command
from bdscan.bench.workers.job import Job, Result
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem
from bdscan.pipeline.pool import ProcessPool

SCHEMA = "bdscan.bench.result/1"


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
    make_folder(results)
    finished = {job: result for job in jobs if (result := done(job, results)) is not None}
    if missing := [job for job in jobs if job not in finished]:
        # The end of the block, also when the user has had enough, ends all that is at work.
        with ProcessPool(workers) as pool, started(engine, workers, command, pool) as do:
            waiting = {pool.threads.submit(_result_of, job, do, results, command_line): job for job in missing}
            for future in as_completed(waiting):
                finished[waiting[future]] = future.result()
                on_result(future.result(), len(finished), len(jobs))
    return [finished[job] for job in jobs]


def make_folder(folder: Path) -> None:
    """Before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"cannot write to `{folder}`: {error.strerror}", status=USAGE) from None


def done(job: Job, results: Path) -> Result | None:
    """The result of an earlier run of the very same job, unless that failed."""
    try:
        result = json.loads(job.file(results).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(result, dict) and result.get("key") == job.key and result.get("failure") is None
    return result if same and not job.lacking(result) else None


def _result_of(job: Job, engine: Engine, results: Path, command_line: str) -> Result:
    """The result, as it is in its file."""
    begun = time.monotonic()
    try:
        key = job.key
        end = engine(json.dumps(asdict(job)), job.device != "cpu")
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
    with AtomicFiles(synced=False) as files:
        files.temporary(job.file(results)).write_text(text + "\n", encoding="utf-8")
    return cast(Result, json.loads(text))  # the same, to the last bit, as when it is read again
