"""Purifies one model as `bdscan purify` does, and then, with the truth at hand, measures what came of it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from bdscan.bench.labels import beside
from bdscan.bench.purify import trigger_truth
from bdscan.bench.purify.purify_job import Purification
from bdscan.bench.workers.passes import counted
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import survey
from bdscan.method import registry
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.training_plan import accuracy
from bdscan.pipeline import PurifyOptions, purify
from bdscan.pipeline.purify import WORKING_SHARE
from bdscan.triggers.user_trigger import der

if TYPE_CHECKING:
    from bdscan.report import Report


def do(job: Purification) -> dict[str, Any]:
    """The report, the figures that only somebody with the trigger can have, and what it cost."""
    from bdscan.report.json import document

    if job.clean is None:
        raise Problem("purifying needs clean images (`--clean`)", status=USAGE)
    with tempfile.TemporaryDirectory(prefix="bdscan-") as folder:
        clean = job.clean if job.images is None else drawn(job, Path(folder))
        before = _loaded(job, Path(job.model), clean)
        output = job.output or Path(folder, f"{job.title}{Path(job.model).suffix}")
        with counted() as passes:
            report = _purified(job, clean, output)
        cost = {"passes": passes.forward, "gradients": passes.gradient}
        if isinstance(report, Problem):
            return {"refused": report.message, **cost}
        after = _loaded(job, output, clean)
    told = document(_settled(job, report))
    return {"refused": None, "report": told, "measured": measured(job, report, before, after), **cost}


def _purified(job: Purification, clean: str, output: Path) -> Report | Problem:
    """That a method has nothing to go by is an answer too, and the same one next time."""
    try:
        return purify(job.model, cure(job, clean, output))
    except Problem as problem:
        if problem.status != COULD_NOT_TELL:
            raise
        return problem


def cure(job: Purification, clean: str, output: Path) -> PurifyOptions:
    """The options of the user's own command."""
    return PurifyOptions(
        clean=clean,
        output=output,
        method=job.purifier,
        arch=job.arch,
        normalize=job.normalize,
        probes=job.probes,
        settings=registry.given(job.settings),
        effort=cast(Any, job.effort),
        budget=job.budget,
        device=job.device,
        seed=job.seed,
    )


def drawn(job: Purification, folder: Path) -> str:
    """So many of the clean images, class by class in equal parts, as a file that the command can be given."""
    assert job.clean is not None
    source = open_images(job.clean)
    shape = source.size or _loaded(job, Path(job.model), job.clean).suspect.shape
    some = source.load(shape, limit=job.images, seed=job.seed)
    if job.images is not None and len(some) < job.images:
        raise Problem(f"`{job.clean}` holds {len(some)} images, not {job.images}", status=USAGE)
    path = folder / "clean.npz"
    some.save(path)
    return str(path)


def measured(job: Purification, report: Report, before: Loaded, after: Loaded) -> dict[str, Any]:
    """ACC, ASR, RA and DER on images that the method never saw. Here the label is read, and not before."""
    label = beside(Path(job.model))
    images, seen = _fresh(job, before)
    suspect, cleaned = before.suspect, _alike(before.suspect, after.suspect)
    known = trigger_truth.trigger(label, job.triggers)
    told = {"on": "test" if job.test else "held out", "images": len(images), "seen": seen, **_of(report)}
    if known is None:
        plain = {when: accuracy(net, images) for when, net in (("before", suspect), ("after", cleaned))}
        return {**told, "trigger": None, "accuracy": plain, "asr": None, "ra": None, "der": None}
    was, now = trigger_truth.obeyed(suspect, known, images), trigger_truth.obeyed(cleaned, known, images)
    facts = {"trigger": known.name, "target": was.target, "all_to_all": known.all_to_all, "source": known.source}
    first, second = asdict(was), asdict(now)
    both = {key: {"before": first[key], "after": second[key]} for key in ("accuracy", "asr", "ra")}
    return {**told, **facts, **both, "der": der(was, now)}


def _settled(job: Purification, report: Report) -> Report:
    """Without the name of a file that is gone by now."""
    output = None if job.output is None else str(job.output)
    return replace(report, treatment=report.treatment and replace(report.treatment, output=output))


def _of(report: Report) -> dict[str, Any]:
    """What was given, and how long it took; the rest is in the report."""
    assert report.treatment is not None
    seconds = {"purify": report.treatment.seconds, "all": report.made_with["seconds"]}
    return {"clean": report.images, "seconds": seconds}


def _loaded(job: Purification, path: Path, clean: str) -> Loaded:
    images = open_images(clean)
    return load(survey(str(path)), arch=job.arch, normalize=job.normalize, images=images, device=job.device)


def _alike(suspect: Classifier, cleaned: Classifier) -> Classifier:
    """Behind the suspect's normalisation: `auto` chooses by accuracy, and could choose otherwise once that changed."""
    mean, std = (figures.flatten().tolist() for figures in (suspect.net.mean, suspect.net.std))
    net = Normalised(cleaned.net.net, mean, std).to(suspect.device)
    return Classifier(net, suspect.shape, suspect.classes, suspect.names)


def _fresh(job: Purification, loaded: Loaded) -> tuple[ImageSet, int]:
    """What to measure on, and how many of the test images were left out because the method had seen them."""
    assert loaded.clean is not None
    if job.test is None:
        return loaded.clean.split(WORKING_SHARE, job.seed)[1], 0
    given = open_images(job.test).load(loaded.suspect.shape, loaded.suspect.names or None)
    seen = {image.numpy().tobytes() for image in loaded.clean.images}
    kept = [place for place, image in enumerate(given.images) if image.numpy().tobytes() not in seen]
    if not kept:
        raise Problem(f"all images of `{job.test}` are among the clean ones", hint="give others", status=USAGE)
    return given.take(torch.tensor(kept)), len(given) - len(kept)
