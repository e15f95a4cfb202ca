"""Jobs spread over a Ray cluster, or over this machine by Ray: it knows which machine has a GPU to spare."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bdscan.bench.workers.jobs import Command, Job, Result, failed
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem


class OnRay:
    """A task a job, each in a process of its own: what kills one, a lost machine included, costs one job.

    Every machine needs bdscan, and the paths of models, images and results must mean the same everywhere.
    """

    def __init__(self, address: str | None, workers: int, command: Command) -> None:
        try:
            import ray
        except ImportError:
            raise Problem("Ray is not installed", hint="pip install 'bdscan[ray]'", status=USAGE) from None
        try:
            own = {} if address else {"num_cpus": workers, "include_dashboard": False}
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True, **own)
        except Exception as error:
            at = f" at `{address}`" if address else ""
            reason = str(error).strip().splitlines() or [type(error).__name__]
            hint = "`ray status` tells whether it runs"  # Ray's errors are of many kinds, the plain one among them
            raise Problem(f"Ray does not answer{at}: {reason[0]}", hint=hint, status=COULD_NOT_TELL) from error
        self.ray, self.command = ray, command
        gpus = ray.cluster_resources().get("GPU", 0)
        self.gpu = min(1.0, gpus / workers)  # so many jobs share what GPUs there are
        self.task = ray.remote(max_retries=0, num_cpus=1)(_worked)
        self.waiting: set[Any] = set()

    def do(self, job: Job) -> tuple[str | None, Result | None]:
        share = self.gpu if job.device != "cpu" else 0
        waiting = self.task.options(num_gpus=share).remote(asdict(job), self.command, str(Path.cwd()))
        self.waiting.add(waiting)
        try:
            failure, made = self.ray.get(waiting)
        except self.ray.exceptions.RayError as error:
            return f"lost: {type(error).__name__}", None
        finally:
            self.waiting.discard(waiting)
        return failure, made

    def stop(self) -> None:
        for waiting in tuple(self.waiting):
            self.ray.cancel(waiting, force=True)
        self.ray.shutdown()


def _worked(fields: dict[str, Any], command: Command, where: str) -> tuple[str | None, Result | None]:
    """On the machine that Ray chose, with the GPU that it set aside."""
    with tempfile.TemporaryDirectory(prefix="bdscan-") as folder:
        told, outcome = Path(folder, "job.json"), Path(folder, "outcome.json")
        told.write_text(json.dumps(fields), encoding="utf-8")
        line = command(told, outcome)
        done = subprocess.run(line, cwd=where, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        failure = failed(done.returncode, done.stderr)
        return failure, json.loads(outcome.read_text(encoding="utf-8")) if failure is None else None
