"""The process that does one job: its arguments are the job's file and that of the outcome."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bdscan import __version__
from bdscan.bench.detect.neural_cleanse import NeuralCleanseSettings, neural_cleanse
from bdscan.bench.plant import plant_net
from bdscan.bench.purify import purify_net
from bdscan.bench.train import train_net
from bdscan.bench.workers.job import Job, Json, PlantJob, PurifyJob, TrainJob
from bdscan.bench.workers.passes import counted
from bdscan.facts.problem import USAGE, Problem
from bdscan.pipeline import inspect


def _inspect(job: Job) -> Json:
    from bdscan.report.json import document

    with counted() as passes:
        report = inspect(job.model, job.verb_options())
    for run in report.runs:
        if run.probe == "load" and run.failure:  # nothing was looked at: no verdict to count
            raise Problem(run.failure.message)
    return {"report": document(report), **passes.json()}


def _cleanse(job: Job) -> Json:
    from bdscan.images.source import open_images
    from bdscan.load.assembly.assemble import load
    from bdscan.load.contents import survey

    if job.clean is None:
        raise Problem("the baseline needs clean images (`--clean`)", status=USAGE)
    images = open_images(job.clean)
    with counted() as passes:
        loaded = load(survey(job.model), arch=job.arch, normalize=job.normalize, images=images, device=job.device)
        assert loaded.clean is not None
        found = neural_cleanse(loaded.suspect, loaded.clean, NeuralCleanseSettings(steps=job.steps), job.seed)
    figures = {"norms": found.norms, "index": found.index, "target": found.target, "flagged": found.flagged}
    return {"cleanse": figures, **passes.json()}


_KINDS: dict[str, tuple[type[Job], Callable[[Any], Json]]] = {
    "inspect": (Job, _inspect),
    "cleanse": (Job, _cleanse),
    "purify": (PurifyJob, purify_net.do),
    "plant": (PlantJob, plant_net.do),
    "train": (TrainJob, train_net.do),
}


def main() -> None:
    """Exits with 0, or with a problem's own status and its sentence as the last line."""
    job_file, outcome_file = map(Path, sys.argv[1:])
    values: Json = json.loads(job_file.read_text(encoding="utf-8"))
    fields: Json = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    kind, do = _KINDS[values["method"]]
    versions = {"bdscan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    try:
        outcome = {**do(kind(**fields)), "made_with": versions}
    except Problem as problem:
        sys.stderr.write(f"{problem.message}\n")
        sys.exit(problem.status)
    outcome_file.write_text(json.dumps(outcome), encoding="utf-8")
