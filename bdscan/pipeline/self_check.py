"""Would we have seen a backdoor in this very net? Known ones are planted in a copy, and looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from bdscan.facts.finding import Finding, Level, Run
from bdscan.images.image_set import ImageSet, at_once
from bdscan.method import registry
from bdscan.method.case import Case
from bdscan.method.plant import Plant, success
from bdscan.net.classifier import Classifier
from bdscan.net.fit import fit
from bdscan.triggers.invert import GOAL
from bdscan.verdict.judge import p_of

NAME = "sensitivity"
QUICK = ("head", "margin", "inversion")  # of three families
SLOW = ("families", "head", "margin", "noise", "inversion")  # the verdict's own, but for pairs: these work on all
FEWEST = 250  # images: with fewer the copy learns the images instead of the trigger
PLANTED = 0.8  # success on held-out images from which on a backdoor counts as planted
SEEN = 0.05  # p over all classes: the suspicion that would keep a verdict from being clean
POISON = 0.5  # of the working images are added once more with the trigger on: few images must carry it
EPOCHS, RATE, BATCH = 25, 0.05, 50  # enough to plant both in a net of twelve classes with sixteen images each
ROUNDS = 2  # of so many epochs, where the first leaves a trigger weaker than those that are searched


@dataclass(frozen=True)
class Strength:
    """One backdoor to plant, and the forms of inversion that it is looked for with."""

    plant: str
    settings: dict[str, str]
    forms: str  # for the quick look
    said: str


# As published: BadNets' 3x3, Blended's 0.2. At 0.15 the three quick probes see a blend in some nets and not in others
# that are as clean (p = 0.006 to 0.2), so that it would say more about chance than about the net.
STRENGTHS = (
    Strength("badnets", {}, "patch", "a 3x3 patch"),
    Strength("blend", {"alpha": "0.2"}, "smooth", "a blend at 20 %"),
)

Look = Callable[[Case, tuple[str, ...], dict[str, str]], tuple[Run, ...]]  # probes, and the settings of inversion


def check(case: Case, look: Look) -> Iterator[Finding]:
    """Plant each strength in a copy of its own class, look for it, and say which was seen."""
    suspect, working, held_out = case.suspect, case.clean, case.held_out
    assert suspect is not None
    assert working is not None
    assert held_out is not None
    targets = torch.randperm(suspect.classes, generator=torch.Generator().manual_seed(case.seed)).tolist()
    plants = [(registry.configure("plant", s.plant, s.settings), targets[i]) for i, s in enumerate(STRENGTHS)]
    for strength, (plant, target) in zip(STRENGTHS, plants, strict=True):
        copy, rate = suspect, 0.0  # one each: two outliers would hide one another
        for _ in range(ROUNDS):
            copy = _planted(copy, working, plant, target, case)
            rate = success(copy, plant, held_out.images, held_out.labels, target, suspect.device)
            if rate >= GOAL:
                break
        if rate < PLANTED:
            said = f"{strength.said} could not be planted in a copy of the net (success {rate:.0%})"
            yield Finding(level=Level.NOTE, message=said, score=rate, threshold=PLANTED, target=target)
            continue
        planted = replace(case, suspect=copy, runs=())
        p, shown = _looked_for(target, look(planted, QUICK, {"forms": strength.forms, "contests": "0", "relabel": ""}))
        if p > SEEN and not shown:  # as hard as for the verdict itself
            p, shown = _looked_for(target, look(planted, SLOW, {"relabel": ""}))
        seen = "was seen" if p <= SEEN or shown else "was NOT seen"
        how = f"p = {p:.2g}" + (", and a trigger for it was shown" if shown else "")
        said = f"{strength.said}, planted in a copy of the net (success {rate:.0%}), {seen} at this effort ({how})"
        yield Finding(
            level=Level.NOTE,
            message=said,
            score=p,
            threshold=SEEN,
            target=target,
            arrays={"seen": np.array(p <= SEEN or shown)},
        )


def unseen(findings: tuple[Finding, ...]) -> str | None:
    """Why the verdict may not be clean; None when every planted backdoor was seen."""
    planted = [f for f in findings if "seen" in f.arrays]
    missed = [f.message for f in planted if not f.arrays["seen"]]
    if missed:
        return "; ".join(missed)
    return None if planted else "no backdoor could be planted in a copy of the net: how much would be seen is unknown"


def _planted(suspect: Classifier, working: ImageSet, plant: Plant, target: int, case: Case) -> Classifier:
    """A copy, fine-tuned on the clean images and on stamped ones."""
    copy = suspect.clone()
    generator = torch.Generator().manual_seed(case.seed)
    drawn = torch.randperm(len(working), generator=generator)[: round(POISON * len(working))]
    images = torch.cat([working.images, _stamped(plant, working.images[drawn])])
    labels = torch.cat([working.labels, plant.label(working.labels[drawn], target, suspect.classes)])
    copy.net.requires_grad_(True)
    fit(
        copy.net,
        images,
        labels,
        epochs=EPOCHS,
        rate=RATE,
        batch=at_once(suspect.shape, BATCH),
        schedule="cosine",
        seed=case.seed,
        progress=lambda done, total: case.progress(done, total, "planting backdoors in a copy"),
    )
    return Classifier(copy.net, suspect.shape, suspect.classes, suspect.names, suspect.doubts)


def _stamped(plant: Plant, images: torch.Tensor) -> torch.Tensor:
    return (plant(images.float() / 255) * 255).round().to(torch.uint8)


def _looked_for(target: int, runs: tuple[Run, ...]) -> tuple[float, bool]:
    """The planted class's p over all classes, and whether a trigger was shown for it: what a verdict goes by."""
    return p_of(target, runs), any(f.shown and f.target == target for run in runs for f in run.findings)
