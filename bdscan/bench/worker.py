"""Does one job in a process of its own: `python -m bdscan.bench.worker JOB.json OUTCOME.json`."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any, cast

import torch

from bdscan import __version__
from bdscan.bench import cure, planter, teacher
from bdscan.bench.cleanse import Cleansing, cleanse
from bdscan.bench.jobs import Job
from bdscan.bench.lesson import Lesson
from bdscan.bench.passes import counted
from bdscan.bench.planting import Planting
from bdscan.bench.purification import Purification
from bdscan.pipeline import Options, inspect
from bdscan.problem import USAGE, Problem


def do(job: Job) -> dict[str, Any]:
    """The outcome, its cost and what it was made with."""
    made_with = {"bdscan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    if isinstance(job, Purification):
        return {**cure.do(job), "made_with": made_with}
    if isinstance(job, Planting):
        return {**planter.do(job), "made_with": made_with}
    if isinstance(job, Lesson):
        return {**teacher.do(job), "made_with": made_with}
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
    from bdscan.images import open_images
    from bdscan.load import load
    from bdscan.load.contents import survey

    if job.clean is None:
        raise Problem("the baseline needs clean images (`--clean`)", status=USAGE)
    images = open_images(job.clean)
    loaded = load(
        survey(job.model), arch=job.arch, normalize=job.normalize, images=images, classes=None, device=job.device
    )
    assert loaded.clean is not None
    found = cleanse(loaded.suspect, loaded.clean, Cleansing(steps=job.steps), job.seed)
    return {"cleanse": {"norms": found.norms, "index": found.index, "target": found.target, "flagged": found.flagged}}


def main(told: Path, outcome: Path) -> int:
    """Exit status 0, or a problem's own with its sentence as the last line."""
    read = json.loads(told.read_text(encoding="utf-8"))
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in read.items()}
    kind = {"purify": Purification, "plant": Planting, "train": Lesson}.get(fields["method"], Job)
    try:
        made = do(kind(**fields))
    except Problem as problem:
        sys.stderr.write(f"{problem.message}\n")
        return problem.status
    outcome.write_text(json.dumps(made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
