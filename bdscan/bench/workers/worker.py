"""The process that does one job: its arguments are the job's file and that of the outcome."""

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
from bdscan.bench.workers.jobs import Job, Json
from bdscan.bench.workers.passes import counted
from bdscan.facts.problem import USAGE, Problem
from bdscan.pipeline import Options, inspect


def do(job: Job) -> Json:
    """The outcome, its cost and what it was made with."""
    versions = {"bdscan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {**_outcome(job), "made_with": versions}


def _outcome(job: Job) -> Json:
    if isinstance(job, PurifyJob):
        return purify_net.do(job)
    if isinstance(job, PlantJob):
        return plant_net.do(job)
    if isinstance(job, TrainJob):
        return train_net.do(job)
    with counted() as passes:
        outcome = {"inspect": _inspect, "cleanse": _cleanse}[job.method](job)
    return {**outcome, "passes": passes.forward, "gradients": passes.gradient}


def _inspect(job: Job) -> Json:
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
            raise Problem(run.failure.message)
    return {"report": document(report)}


def _cleanse(job: Job) -> Json:
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


def main() -> None:
    """Exits with 0, or with a problem's own status and its sentence as the last line."""
    job_file, outcome_file = map(Path, sys.argv[1:])
    values: Json = json.loads(job_file.read_text(encoding="utf-8"))
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    kind = {"purify": PurifyJob, "plant": PlantJob, "train": TrainJob}.get(values["method"], Job)
    try:
        outcome = do(kind(**fields))
    except Problem as problem:
        sys.stderr.write(f"{problem.message}\n")
        sys.exit(problem.status)
    outcome_file.write_text(json.dumps(outcome), encoding="utf-8")
