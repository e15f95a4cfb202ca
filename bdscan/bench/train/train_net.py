"""Poisons data as an attacker would, trains on them as `bdscan train` does, and measures what came of it."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from bdscan.bench.workers.job import Json, TrainJob
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images
from bdscan.load.arch.fresh import fresh
from bdscan.load.assembly.normalize import parse
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import survey
from bdscan.method import registry
from bdscan.method.plant import Plant, Poisoned, poison, success
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.training_plan import accuracy
from bdscan.pipeline import TrainOptions, train
from bdscan.report import Report

DATA, SUSPECTS, MODEL = "data.npz", "suspects.csv", "model.safetensors"


def do(job: TrainJob) -> Json:
    """What the report says, and the figures that only somebody with the trigger can have."""
    from bdscan.report.json import document

    data, test = _draw(job, str(job.clean), job.images, training=True), _draw(job, job.test, None, training=False)
    plant = _plant(job)
    poisoned = _poisoned(job, plant, data)
    with tempfile.TemporaryDirectory(prefix="bdscan-") as folder:
        ImageSet(poisoned.images, poisoned.labels, data.names).save(Path(folder) / DATA)
        report = train(str(Path(folder) / DATA), _options(job, Path(folder)))
        model = _loaded(job, report, Path(folder) / MODEL)
        isolated = _isolated(Path(folder) / SUSPECTS)
    values = document(report)
    training = {**values["training"], "data": {**values["training"]["data"], "path": str(job.clean)}, "output": None}
    return {
        "measured": {
            "trigger": f"plant {job.plant}" if plant else None,
            "target": job.target if plant else None,
            "accuracy": _only_after(accuracy(model, test)),
            "asr": _only_after(success(model, plant, test.images, test.labels, job.target)) if plant else None,
            "tested_on": len(test),
            **_isolation(isolated, poisoned),
        },
        **{key: values[key] for key in ("verdict", "reasons", "target", "clean_accuracy")},
        "training": {**training, "suspects": None},
        "seconds": {"train": training["seconds"], "all": values["made_with"]["seconds"]},
    }


def _draw(job: TrainJob, spec: str, images: int | None, *, training: bool) -> ImageSet:
    source = open_images(spec, training=training)
    size = source.size
    if size is None and job.side is None:
        raise Problem(f"the images in `{spec}` differ in size", hint="--size SIDE", status=USAGE)
    shape = (size[0] if size else 3, job.side, job.side) if job.side else size
    assert shape is not None
    return source.load(shape, limit=images or source.count, seed=job.seed)


def _plant(job: TrainJob) -> Plant | None:
    if job.plant is None:
        return None
    plant: Plant = registry.configure("plant", job.plant, registry.pairs(job.settings))
    if plant.needs_net:
        raise Problem(f"`{job.plant}` is made from a net: `bdscan bench plant` plants it", status=USAGE)
    return plant


def _poisoned(job: TrainJob, plant: Plant | None, data: ImageSet) -> Poisoned:
    if plant is None:
        none = torch.zeros(len(data), dtype=torch.bool)
        return Poisoned(data.images, data.labels, none, none)
    classes = len(data.names)
    return poison(data.images, data.labels, plant, target=job.target, classes=classes, share=job.rate, seed=job.seed)


def _options(job: TrainJob, folder: Path) -> TrainOptions:
    """Those of the user's own command; suspects only where the method looks for some."""
    looks = registry.find("train", job.trainer).looks
    options = replace(job.verb_options(), clean=None, settings=registry.given(job.options))
    suspects = folder / SUSPECTS if looks else None
    return TrainOptions(
        **vars(options), method=job.trainer, output=folder / MODEL, suspects=suspects, augment=job.augment
    )


def _loaded(job: TrainJob, report: Report, path: Path) -> Classifier:
    """From the file that was written, as its card says."""
    subject = report.subject
    assert subject.classes is not None
    assert subject.input is not None
    shape = cast(tuple[int, int, int], tuple(subject.input))
    with torch.random.fork_rng(devices=[]):
        net = fresh(job.arch, subject.classes, shape)
    net.load_state_dict(read(survey(path)).tensors)
    norm = parse(str(subject.normalize), shape[0])
    return Classifier(Normalised(net, norm.mean, norm.std), shape, subject.classes, subject.names)


def _isolated(table: Path) -> list[int]:
    """Places in the data, as the table's names tell them."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        files = [row["file"] for row in csv.DictReader(file) if row["isolated"] == "yes"]
    return [int(name.rpartition("[")[2].removesuffix("]")) for name in files]


def _only_after(value: float) -> dict[str, float | None]:
    """In the form of what is measured before and after a purification; before the training there was no net."""
    return {"before": None, "after": value}


def _isolation(isolated: list[int], poisoned: Poisoned) -> Json:
    """How many of the isolated images are poisoned, and how many of the poisoned ones are isolated."""
    right = int(poisoned.poisoned[isolated].sum()) if isolated else 0
    total = int(poisoned.poisoned.sum())
    return {
        "isolated": len(isolated),
        "poisoned": total,
        "precision": right / len(isolated) if isolated else None,
        "recall": right / total if total and isolated else None,
    }
