"""Purifies one model as `bdscan purify` does, and then, with the true trigger at hand, measures what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bdscan.bench.labels import ALL_TO_ALL, ModelLabel, learned_path, read_label
from bdscan.bench.workers.job import Json, PurifyJob
from bdscan.bench.workers.passes import counted
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images
from bdscan.load.arch.from_file import function
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import survey
from bdscan.method import registry
from bdscan.method.plant import Plant, kept
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.training_plan import accuracy
from bdscan.pipeline import PurifyOptions, purify
from bdscan.pipeline.purify import WORKING_SHARE
from bdscan.triggers.user_trigger import TriggerEffect, der

if TYPE_CHECKING:
    from bdscan.report import Report

BATCH = 250  # images at once


def do(job: PurifyJob) -> Json:
    """The report, the figures that only somebody with the trigger can have, and what it cost."""
    from bdscan.report.json import document

    if job.clean is None:
        raise Problem("purifying needs clean images (`--clean`)", status=USAGE)
    with tempfile.TemporaryDirectory(prefix="bdscan-") as folder:
        clean = job.clean if job.images is None else draw(job, Path(folder))
        before = _loaded(job, Path(job.model), clean)
        output = job.output or Path(folder, f"{job.title}{Path(job.model).suffix}")
        options = replace(job.verb_options(), clean=clean, settings=registry.given(job.settings))
        with counted() as passes:
            try:
                report = purify(job.model, PurifyOptions(**vars(options), output=output, method=job.purifier))
            except Problem as problem:
                if problem.status != COULD_NOT_TELL:
                    raise
                # That a method has nothing to go by is an answer too, and the same one next time.
                return {"refused": problem.message, **passes.json()}
        after = _loaded(job, output, clean)
    measured = measure(job, report, before, after)
    return {"refused": None, "report": document(_without_temporary(job, report)), "measured": measured, **passes.json()}


def draw(job: PurifyJob, folder: Path) -> str:
    """So many of the clean images, class by class in equal parts, as a file that the command can be given."""
    assert job.clean is not None
    source = open_images(job.clean)
    shape = source.size or _loaded(job, Path(job.model), job.clean).suspect.shape
    images = source.load(shape, limit=job.images, seed=job.seed)
    if job.images is not None and len(images) < job.images:
        raise Problem(f"`{job.clean}` holds {len(images)} images, not {job.images}", status=USAGE)
    path = folder / "clean.npz"
    images.save(path)
    return str(path)


def measure(job: PurifyJob, report: Report, before: Loaded, after: Loaded) -> Json:
    """ACC, ASR, RA and DER on images that the method did not get. Here the label is read, and not before."""
    label = read_label(Path(job.model))
    images, left_out = _fresh(job, before)
    suspect, cleaned = before.suspect, _alike(before.suspect, after.suspect)
    trigger = true_trigger(label, job.triggers)
    assert report.treatment is not None
    seconds = {"purify": report.treatment.seconds, "all": report.made_with["seconds"]}
    facts: Json = {"on": "test" if job.test else "held out", "images": len(images), "seen": left_out}
    facts |= {"clean": report.images, "seconds": seconds, "trigger": None if trigger is None else trigger.name}
    if trigger is None:
        pair = {"before": accuracy(suspect, images), "after": accuracy(cleaned, images)}
        return {**facts, "accuracy": pair, "asr": None, "ra": None, "der": None}
    first, second = (trigger_effect(net, trigger, images) for net in (suspect, cleaned))
    facts |= {"target": first.target, "all_to_all": trigger.all_to_all, "source": trigger.source}
    pairs = {key: {"before": getattr(first, key), "after": getattr(second, key)} for key in ("accuracy", "asr", "ra")}
    return {**facts, **pairs, "der": der(first, second)}


def _without_temporary(job: PurifyJob, report: Report) -> Report:
    """Without the name of a file that is gone by now."""
    output = None if job.output is None else str(job.output)
    return replace(report, treatment=report.treatment and replace(report.treatment, output=output))


def _loaded(job: PurifyJob, path: Path, clean: str) -> Loaded:
    images = open_images(clean)
    return load(survey(str(path)), arch=job.arch, normalize=job.normalize, images=images, device=job.device)


def _alike(suspect: Classifier, cleaned: Classifier) -> Classifier:
    """Behind the suspect's normalisation: `auto` chooses by accuracy, and could choose otherwise once that changed."""
    mean, std = (figures.flatten().tolist() for figures in (suspect.net.mean, suspect.net.std))
    net = Normalised(cleaned.net.net, mean, std).to(suspect.device)
    return Classifier(net, suspect.shape, suspect.classes, suspect.names)


def _fresh(job: PurifyJob, loaded: Loaded) -> tuple[ImageSet, int]:
    """What to measure on, and how many of the test images were left out because the method got them."""
    assert loaded.clean is not None
    if job.test is None:
        return loaded.clean.split(WORKING_SHARE, job.seed)[1], 0
    given = open_images(job.test).load(loaded.suspect.shape, loaded.suspect.names or None)
    used = {image.numpy().tobytes() for image in loaded.clean.images}
    kept = [place for place, image in enumerate(given.images) if image.numpy().tobytes() not in used]
    if not kept:
        raise Problem(f"all images of `{job.test}` are among the clean ones", hint="give others", status=USAGE)
    return given.take(torch.tensor(kept)), len(given) - len(kept)


class TrueTrigger(Plant):
    """What stamps the pixels, and of whom the label says that it should work."""

    def __init__(self, name: str, stamp: Callable[[Tensor], Any], label: ModelLabel) -> None:
        self.name, self.stamp, self.target = name, stamp, label.target
        self.all_to_all = label.mode == ALL_TO_ALL or getattr(stamp, "all_to_all", False)
        self.source = label.source if label.source is not None else getattr(stamp, "source", None)

    def __call__(self, pixels: Tensor) -> Tensor:
        """On the CPU, where the user's own code expects its pixels."""
        try:
            stamped = self.stamp(pixels.cpu())
        except Exception as error:
            raise Problem(f"`{self.name}`: {type(error).__name__}: {error}", status=USAGE) from error
        if not isinstance(stamped, Tensor) or stamped.shape != pixels.shape:
            raise Problem(f"`{self.name}` does not return a tensor of the shape that it is given", status=USAGE)
        return stamped.to(pixels)


def true_trigger(label: ModelLabel, triggers: str | None) -> TrueTrigger | None:
    """The user's own function by the name of the attack, else the plant of that name; None where there is neither."""
    if label.attack is None:
        return None
    if triggers is not None and (own := function(Path(triggers).expanduser(), label.attack)) is not None:
        trigger = TrueTrigger(f"{Path(triggers).name}:{label.attack}", own, label)
    elif label.attack in registry.names("plant"):
        trigger = TrueTrigger(f"plant {label.attack}", _planted(label), label)
    else:
        return None
    if trigger.target is None and not trigger.all_to_all:
        raise Problem(f"the label of `{label.name}` names neither a `target` nor the mode `{ALL_TO_ALL}`", status=USAGE)
    return trigger


def _planted(label: ModelLabel) -> Plant:
    """With what it learned, where the model lies beside that."""
    plant: Plant = registry.configure("plant", str(label.attack), label.settings)
    path = learned_path(label.model)
    return plant.recall(kept(path)) if path.is_file() else plant


def trigger_effect(suspect: Classifier, trigger: TrueTrigger, images: ImageSet) -> TriggerEffect:
    """As `triggers.user_trigger` measures, but for every kind of attack: of the images that the trigger is made for,
    the share that goes where the attacker wants, and the share that keeps its own label."""
    if trigger.target is not None and not 0 <= trigger.target < suspect.classes:
        message = f"the label's target is {trigger.target}, and the net has classes 0 to {suspect.classes - 1}"
        raise Problem(message, status=USAGE)
    target = 0 if trigger.target is None else trigger.target  # all-to-all asks for no target
    went = resisted = total = 0
    with torch.no_grad():
        for pixels, labels in images.batches(BATCH, suspect.device):
            answers = suspect(trigger(pixels)).argmax(1)
            counted = trigger.goes(labels, target, suspect.classes)
            went += int((answers == trigger.label(labels, target, suspect.classes))[counted].sum())
            resisted += int((answers == labels)[counted].sum())
            total += int(counted.sum())
    if not total:
        raise Problem("no image to measure on is one that the trigger is made for", hint="give more with `--test`")
    aim = None if trigger.all_to_all else trigger.target
    return TriggerEffect(target=aim, accuracy=accuracy(suspect, images), asr=went / total, ra=resisted / total)
