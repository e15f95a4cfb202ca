"""Does one job in a process of its own: `python -m bdscan.bench.workers.worker JOB.json OUTCOME.json`."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any, cast

import torch

from bdscan import __version__
from bdscan.bench.detect.neural_cleanse import NeuralCleanseSettings, neural_cleanse
from bdscan.bench.plant import plant_net
from bdscan.bench.plant.plant_job import PlantJob
from bdscan.bench.purify import purify_net
from bdscan.bench.purify.purify_job import PurifyJob
from bdscan.bench.train import train_net
from bdscan.bench.train.train_job import TrainJob
from bdscan.bench.workers.jobs import Job
from bdscan.bench.workers.passes import counted
from bdscan.facts.problem import USAGE, Problem
from bdscan.pipeline import Options, inspect


def do(job: Job) -> dict[str, Any]:
    """The outcome, its cost and what it was made with."""
    made_with = {"bdscan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    if isinstance(job, PurifyJob):
        return {**purify_net.do(job), "made_with": made_with}
    if isinstance(job, PlantJob):
        return {**plant_net.do(job), "made_with": made_with}
    if isinstance(job, TrainJob):
        return {**train_net.do(job), "made_with": made_with}
    with counted() as passes:
        outcome = {"inspect": _inspect, "cleanse": _cleanse}[job.method](job)
    return {**outcome, "passes": passes.forward, "gradients": passes.gradient, "made_with": made_with}


def _inspect(job: Job) -> dict[str, Any]:
    from bdscan.report.json import document

    options = Options(
        clean=job.clean,
        arch=job.arch,
        normalize=job.normalize,
        probes=job.probes,
        effort=cast(Any, job.effort),
        budget=job.budget,
        device=job.device,
        seed=job.seed,
    )
    report = inspect(job.model, options)
    for run in report.runs:
        if run.probe == "load" and run.failure:  # nothing was looked at: no verdict to count
            raise Problem(run.failure)
    return {"report": document(report)}


def _cleanse(job: Job) -> dict[str, Any]:
    from bdscan.images.source import open_images
    from bdscan.load.assembly.assemble import load
    from bdscan.load.contents import survey

    if job.clean is None:
        raise Problem("the baseline needs clean images (`--clean`)", status=USAGE)
    images = open_images(job.clean)
    loaded = load(
        survey(job.model), arch=job.arch, normalize=job.normalize, images=images, classes=None, device=job.device
    )
    assert loaded.clean is not None
    found = neural_cleanse(loaded.suspect, loaded.clean, NeuralCleanseSettings(steps=job.steps), job.seed)
    return {"cleanse": {"norms": found.norms, "index": found.index, "target": found.target, "flagged": found.flagged}}


def main(told: Path, outcome: Path) -> int:
    """Exit status 0, or a problem's own with its sentence as the last line."""
    read = json.loads(told.read_text(encoding="utf-8"))
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in read.items()}
    kind = {"purify": PurifyJob, "plant": PlantJob, "train": TrainJob}.get(fields["method"], Job)
    try:
        made = do(kind(**fields))
    except Problem as problem:
        sys.stderr.write(f"{problem.message}\n")
        return problem.status
    outcome.write_text(json.dumps(made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
