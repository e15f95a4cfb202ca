"""Jobs of the bench, each in a process of its own, here or spread over a cluster by Ray.

What is done stays done, and a crash costs one job.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

from bdscan.bench.workers.job import Job, Result
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.pipeline.pool import ProcessPool, python_command

SCHEMA = "bdscan.bench.result/1"
PROCESSES = "processes"  # the engine that everybody has
Command = Callable[[Path, Path], list[str]]  # from a job's file and its outcome's to a command line


class JobEnd(NamedTuple):
    """How a job ended: one of the two is None."""

    failure: str | None
    outcome: str | None  # JSON


Engine = Callable[[str, bool], JobEnd]  # does a job, which is JSON, on a GPU if it may; returns when it has ended


def worker_command(job: Path, outcome: Path) -> list[str]:
    """The command that does one job."""
    return python_command("from bdscan.bench.workers.worker import main; main()", str(job), str(outcome))


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
        with ProcessPool(workers) as pool, _started(engine, workers, command, pool) as do:
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


@contextmanager
def _started(name: str, workers: int, command: Command, pool: ProcessPool) -> Iterator[Engine]:
    """Processes of this machine, or Ray: here (`ray`) or on a cluster (`ray:ADDRESS`)."""
    kind, _, address = name.partition(":")
    if name == PROCESSES:
        yield lambda job, may_use_gpu: _by_files(job, command, pool.run, pool.folder)
    elif kind == "ray":
        with _ray(address or None, workers, command) as engine:
            try:
                yield engine
            finally:  # what has not begun must not find Ray gone
                pool.stop()
    else:
        raise Problem(f"`--engine {name}` is no engine", hint="processes, ray or ray:ADDRESS", status=USAGE)


def _by_files(
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


@contextmanager
def _ray(address: str | None, workers: int, command: Command) -> Iterator[Engine]:
    """A task a job, each in a process of its own: what kills one, a lost machine included, costs one job.

    Every machine needs bdscan, and the paths of models, images and results must mean the same everywhere.
    """
    ray = _connected(address, workers)
    gpu_share = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)  # so many jobs share what GPUs there are
    remote = ray.remote(max_retries=0, num_cpus=1)(_do_there)
    waiting: set[Any] = set()

    def do(job: str, may_use_gpu: bool) -> JobEnd:
        task = remote.options(num_gpus=gpu_share if may_use_gpu else 0).remote(job, command, str(Path.cwd()))
        waiting.add(task)
        try:
            end: JobEnd = ray.get(task)
        except ray.exceptions.RayError as error:
            return JobEnd(f"lost: {type(error).__name__}", None)
        finally:
            waiting.discard(task)
        return end

    try:
        yield do
    finally:
        for task in tuple(waiting):
            ray.cancel(task, force=True)
        ray.shutdown()


def _connected(address: str | None, workers: int) -> Any:
    try:
        import ray
    except ImportError:
        raise Problem("Ray is not installed", hint="pip install 'bdscan[ray]'", status=USAGE) from None
    try:
        own = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True, **own)
    except Exception as error:  # Ray's errors are of many kinds, the plain one among them
        at = f" at `{address}`" if address else ""
        reason = str(error).strip().splitlines() or [type(error).__name__]
        hint = "`ray status` tells whether it runs"
        raise Problem(f"Ray does not answer{at}: {reason[0]}", hint=hint, status=COULD_NOT_TELL) from error
    return ray


def _do_there(job: str, command: Command, folder: str) -> JobEnd:
    """On the machine that Ray chose, with the GPU that it set aside."""

    def run(words: list[str]) -> tuple[int, str]:
        process = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        return process.returncode, process.stderr

    return _by_files(job, command, run)
