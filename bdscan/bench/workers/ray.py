"""Jobs spread over a Ray cluster, or over this machine by Ray: it knows which machine has a GPU to spare."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from bdscan.bench.workers.engine import Command, JobEnd, by_files
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem


class RayEngine:
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
        except Exception as error:  # Ray's errors are of many kinds, the plain one among them
            at = f" at `{address}`" if address else ""
            reason = str(error).strip().splitlines() or [type(error).__name__]
            hint = "`ray status` tells whether it runs"
            raise Problem(f"Ray does not answer{at}: {reason[0]}", hint=hint, status=COULD_NOT_TELL) from error
        self._ray, self._command = ray, command
        gpus = ray.cluster_resources().get("GPU", 0)
        self._gpu_share = min(1.0, gpus / workers)  # so many jobs share what GPUs there are
        self._task = ray.remote(max_retries=0, num_cpus=1)(_do_there)
        self._waiting: set[Any] = set()

    def do(self, job: str, *, may_use_gpu: bool) -> JobEnd:
        task = self._task.options(num_gpus=self._gpu_share if may_use_gpu else 0)
        waiting = task.remote(job, self._command, str(Path.cwd()))
        self._waiting.add(waiting)
        try:
            end: JobEnd = self._ray.get(waiting)
        except self._ray.exceptions.RayError as error:
            return JobEnd(f"lost: {type(error).__name__}", None)
        finally:
            self._waiting.discard(waiting)
        return end

    def stop(self) -> None:
        for waiting in tuple(self._waiting):
            self._ray.cancel(waiting, force=True)
        self._ray.shutdown()


def _do_there(job: str, command: Command, folder: str) -> JobEnd:
    """On the machine that Ray chose, with the GPU that it set aside."""

    def run(words: list[str]) -> tuple[int, str]:
        process = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        return process.returncode, process.stderr

    return by_files(job, command, run)
