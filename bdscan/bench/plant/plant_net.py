"""Trains one net with a known trigger, measures what came of it, and writes it beside its label."""

from __future__ import annotations

import json
import os
import platform
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypedDict

import torch
from safetensors.torch import save_file
from torch import nn

from bdscan import __version__
from bdscan.bench.labels import ALL_TO_ALL, label_path, learned_path, trigger_path
from bdscan.bench.workers.job import Json, PlantJob
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import Source, open_images
from bdscan.load.arch.fresh import fresh
from bdscan.load.assembly.normalize import parse
from bdscan.method import registry
from bdscan.method.plant import Plant, PlantMaterial, implant, keep, save, success, trigger
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.device import device_of
from bdscan.net.fit import Augment, crop_and_flip, fit
from bdscan.net.training_plan import CROP, accuracy

PLACES = 4  # digits of the figures in a label


@dataclass(frozen=True, eq=False, kw_only=True)
class Planting:
    """The images, and how nets are trained on them."""

    train: ImageSet
    test: ImageSet
    shape: tuple[int, int, int]
    device: torch.device
    job: PlantJob

    @property
    def classes(self) -> int:
        return len(self.train.names)

    def net(self, seed: int) -> Normalised:
        """With random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = fresh(self.job.arch, self.classes, self.shape)
        norm = parse(self.job.normalize, self.shape[0])
        return Normalised(layers, norm.mean, norm.std).to(self.device)

    @property
    def course(self) -> Course:
        """The same for every net."""
        augment = partial(crop_and_flip, flip=self.job.flip, pad=max(1, min(self.shape[1:]) // CROP))
        return {"epochs": self.job.epochs, "batch": self.job.batch, "rate": self.job.learning_rate, "augment": augment}

    def suspect(self, net: nn.Module) -> Classifier:
        assert isinstance(net, Normalised)
        return Classifier(net, self.shape, self.classes, self.train.names)


class Course(TypedDict):
    """How a net is trained, as `fit` and `implant` take it."""

    epochs: int
    batch: int
    rate: float
    augment: Augment


def do(job: PlantJob) -> Json:
    """The label, which is also written beside the model."""
    begun = monotonic()
    planting = _planting(job)
    plant, target = _plant(job, planting)
    if plant is None:
        train = planting.train
        net = fit(planting.net(job.seed), train.images, train.labels, seed=job.seed, **planting.course)
    else:
        plant = _prepared(plant, target, planting)
        net = _implanted(plant, target, planting)
    suspect = planting.suspect(net)
    label = {**_attack(job, plant, target), **_measured(suspect, plant, target, planting), **_made(job, planting)}
    label["seconds"] = round(monotonic() - begun, 1)
    _write(Path(job.model), suspect, plant, label)
    return {"label": label}


def _planting(job: PlantJob) -> Planting:
    assert job.clean is not None
    source = open_images(job.clean, training=True)
    shape = source.size
    if shape is None:
        raise Problem(f"the images in `{job.clean}` differ in size", hint="bring them to one size", status=USAGE)
    train = source.load(shape, limit=job.images or source.count, seed=job.seed)
    other: Source = open_images(job.test)
    test = other.load(shape, train.names, limit=other.count)
    return Planting(train=train, test=test, shape=shape, device=device_of(job.device), job=job)


def _plant(job: PlantJob, planting: Planting) -> tuple[Plant | None, int]:
    if job.plant is None:
        return None, 0
    plant: Plant = registry.configure("plant", job.plant, registry.pairs(job.settings))
    # Drawn, so that not every trigger of a suite leads to one class, which may be a special one by nature.
    drawn = zlib.crc32(f"{job.plant} {job.settings} {job.seed}".encode()) % planting.classes
    target = drawn if job.target is None else job.target
    if job.target is None and target == plant.source:
        target = (target + 1) % planting.classes
    if not 0 <= target < planting.classes:
        raise Problem(f"there is no class {target}: they are 0 to {planting.classes - 1}", status=USAGE)
    return plant, target


def _prepared(plant: Plant, target: int, planting: Planting) -> Plant:
    """Made from a net of its own, where it needs one: not from the one that is to be poisoned."""
    train, seed = planting.train, planting.job.seed
    victim = None
    if plant.needs_net:
        other = planting.net(seed + 1)
        victim = planting.suspect(fit(other, train.images, train.labels, seed=seed + 1, **planting.course))
    material = PlantMaterial(
        images=train.images, labels=train.labels, target=target, net=victim, device=planting.device, seed=seed
    )
    return plant.prepare(material)


def _implanted(plant: Plant, target: int, planting: Planting) -> nn.Module:
    train, job = planting.train, planting.job
    return implant(
        planting.net(job.seed),
        plant,
        train.images,
        train.labels,
        target=target,
        classes=planting.classes,
        share=job.rate,
        seed=job.seed,
        **planting.course,
    )


def _attack(job: PlantJob, plant: Plant | None, target: int) -> Json:
    """As `bench.labels` reads it."""
    arch = job.arch.rpartition(":")[2]
    if plant is None:
        return {"arch": arch, "attack": None, "rate": 0, "target": None}
    all_to_all = plant.all_to_all
    return {
        "arch": arch,
        "attack": job.plant,
        "settings": registry.pairs(job.settings),
        "rate": job.rate,
        "target": None if all_to_all else target,
        "mode": ALL_TO_ALL if all_to_all else "clean" if plant.clean_label else "dirty",
        "source": plant.source,
    }


def _measured(suspect: Classifier, plant: Plant | None, target: int, planting: Planting) -> Json:
    test, asr = planting.test, None
    if plant is not None:
        asr = round(success(suspect, plant, test.images, test.labels, target, planting.device), PLACES)
    return {"acc": round(accuracy(suspect, test), PLACES), "asr": asr, "tested_on": len(test)}


def _made(job: PlantJob, planting: Planting) -> Json:
    course = {
        "images": len(planting.train),
        "epochs": job.epochs,
        "batch": job.batch,
        "rate": job.learning_rate,
        "flip": job.flip,
    }
    versions = {"bdscan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"device": planting.device.type, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    return {
        "seed": job.seed,
        "normalize": job.normalize,
        "course": course,
        "made_with": {**versions, **machine},
        "command": job.command,
    }


def _write(model: Path, suspect: Classifier, plant: Plant | None, label: Json) -> None:
    """Together or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in suspect.net.net.state_dict().items()}
    with AtomicFiles() as files:
        save_file(state, files.temporary(model))
        if plant is not None and plant.learned():
            keep(plant, files.temporary(learned_path(model)))
        if plant is not None and trigger(plant, suspect.shape) is not None:
            save(plant, files.temporary(trigger_path(model)), suspect.shape)
        files.temporary(label_path(model)).write_text(json.dumps(label, indent=1) + "\n", encoding="utf-8")
