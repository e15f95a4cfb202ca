"""Could our own answer be trusted? Asked before the first probe; a doubt caps the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bdscan.finding import Finding, Level, Run

if TYPE_CHECKING:
    from bdscan.load import Loaded


def preflight(loaded: Loaded) -> Run:
    """A run named `preflight`: a failure in it means that no verdict can be `clean`."""
    doubts = (*loaded.doubts, *(loaded.clean.doubts if loaded.clean is not None else ()), *_of_the_net(loaded))
    notes = tuple(Finding(level=Level.NOTE, message=note) for note in loaded.notes)
    return Run(probe="preflight", findings=notes, failure="; ".join(dict.fromkeys(doubts)) or None)


def _of_the_net(loaded: Loaded) -> Iterator[str]:
    import torch

    suspect, clean = loaded.suspect, loaded.clean
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pixels = torch.rand((16, *suspect.shape), generator=generator).to(suspect.device)
        if clean is not None:
            pixels = torch.cat([pixels, next(iter(clean.batches(64, suspect.device)))[0]])
        logits, again = suspect(pixels).float(), suspect(pixels).float()
    if not bool(torch.isfinite(logits).all()):
        yield "the net's outputs are not finite numbers"
        return
    if not torch.equal(logits, again):
        yield "the net does not answer the same twice"
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        yield "the net's outputs are probabilities, not logits: give a net without its softmax"
    if bool((logits.std(0) < 1e-6).all()):
        yield "the net gives every image the same answer"
    if suspect.classes < 4:
        yield f"{suspect.classes} classes are too few to tell an outlier from the others"
    if clean is None:
        yield "no clean images were given: only the probes that need none ran"
    elif loaded.clean_accuracy is not None and loaded.clean_accuracy < _floor(suspect.classes):
        yield (
            f"accuracy on the clean images is {loaded.clean_accuracy:.0%}, near chance: "
            "the normalisation, the class order or the images are wrong"
        )


def _floor(classes: int) -> float:
    """Half-way between nothing and a usable net: twice chance plus a tenth, at most one half."""
    return min(0.5, 2 / classes + 0.1)
