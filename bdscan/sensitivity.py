"""Would we have seen a backdoor in this very net? Known ones are planted in a copy, and looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from bdscan import method
from bdscan.case import Case
from bdscan.data import CleanSet, at_once
from bdscan.finding import Finding, Level
from bdscan.fit import fit
from bdscan.model import SuspectModel
from bdscan.plant import Plant, success
from bdscan.statistics import holm, pooled

NAME = "sensitivity"
PROBES = ("head", "margin", "inversion")  # quick, and of three families
FEWEST = 250  # images: with fewer the copy learns the images instead of the trigger
PLANTED = 0.8  # success on held-out images from which on a backdoor counts as planted
SEEN = 0.05  # p over all classes: the suspicion that would keep a verdict from being clean
POISON = 0.5  # of the working images are added once more with the trigger on: few images must carry it
EPOCHS, RATE, BATCH = 25, 0.05, 50  # enough to plant both in a net of twelve classes with sixteen images each


@dataclass(frozen=True)
class Strength:
    """One backdoor to plant, and the forms of inversion that it is looked for with."""

    plant: str
    settings: dict[str, str]
    forms: str
    said: str


# As published: BadNets' 3x3, Blended's 0.2. At 0.15 the three quick probes see a blend in some nets and not in others
# that are as clean (p = 0.006 to 0.2), so that it would say more about chance than about the net.
STRENGTHS = (
    Strength("badnets", {}, "patch", "a 3x3 patch"),
    Strength("blend", {"alpha": "0.2"}, "smooth", "a blend at 20 %"),
)

Look = Callable[[Case, str], list[Finding]]  # the quick probes, and the inversion with the given forms


def check(case: Case, look: Look) -> Iterator[Finding]:
    """Plant each strength in a copy of its own class, look for it, and say which was seen."""
    suspect, working, held_out = case.suspect, case.clean, case.held_out
    assert suspect is not None
    assert working is not None
    assert held_out is not None
    targets = torch.randperm(suspect.classes, generator=torch.Generator().manual_seed(case.seed)).tolist()
    plants = [(method.configure("plant", s.plant, s.settings), targets[i]) for i, s in enumerate(STRENGTHS)]
    for strength, (plant, target) in zip(STRENGTHS, plants, strict=True):
        copy = _planted(suspect, working, plant, target, case)  # one each: two outliers would hide one another
        rate = success(copy, plant, held_out.images, held_out.labels, target, suspect.device)
        if rate < PLANTED:
            said = f"{strength.said} could not be planted in a copy of the net (success {rate:.0%})"
            yield Finding(level=Level.NOTE, message=said, score=rate, threshold=PLANTED, target=target)
            continue
        p = _p_of(look(replace(case, suspect=copy, runs=()), strength.forms), target)
        seen = "was seen" if p <= SEEN else "was NOT seen"
        said = (
            f"{strength.said}, planted in a copy of the net (success {rate:.0%}), {seen} at this effort (p = {p:.2g})"
        )
        yield Finding(level=Level.NOTE, message=said, score=p, threshold=SEEN, target=target, shown=False)


def unseen(findings: tuple[Finding, ...]) -> str | None:
    """Why the verdict may not be clean; None when every planted backdoor was seen."""
    missed = [f.message for f in findings if f.threshold == SEEN and (f.score or 0) > SEEN]
    planted = [f for f in findings if f.threshold == SEEN]
    if missed:
        return "; ".join(missed)
    return None if planted else "no backdoor could be planted in a copy of the net: how much would be seen is unknown"


def _planted(suspect: SuspectModel, working: CleanSet, plant: Plant, target: int, case: Case) -> SuspectModel:
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
    return SuspectModel(copy.net, suspect.shape, suspect.classes, suspect.names, suspect.doubts)


def _stamped(plant: Plant, images: torch.Tensor) -> torch.Tensor:
    return (plant(images.float() / 255) * 255).round().to(torch.uint8)


def _p_of(findings: list[Finding], target: int) -> float:
    """The planted class's p over all classes, from the findings that carry one p a class."""
    ps = [f.arrays["p_values"] for f in findings if "p_values" in f.arrays]
    combined = pooled(ps)
    return float(holm(combined)[target])
