"""The trigger that a model was trained with, and how nets fare with it: read when the work is done, never before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdscan.bench.labels import ALL_TO_ALL, ModelLabel, learned_path
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.load.arch.from_file import function
from bdscan.method import registry
from bdscan.method.plant import Plant, kept
from bdscan.net.classifier import Classifier
from bdscan.net.training_plan import accuracy
from bdscan.triggers.user_trigger import TriggerEffect

BATCH = 250  # images at once


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
