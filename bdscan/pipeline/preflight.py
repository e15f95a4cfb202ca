"""Could our own answer be trusted? Asked before the first probe; a doubt caps the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bdscan.facts.failure import Failure, FailureKind
from bdscan.facts.finding import Finding, Level, Run

if TYPE_CHECKING:
    from bdscan.load.assembly.loaded import Loaded


class Doubt(NamedTuple):
    """Why an answer may be wrong."""

    message: str
    hopeless: bool = False  # not worth looking any further, nor training on these images


def preflight(loaded: Loaded, doubts: Sequence[Doubt]) -> Run:
    """A run named `preflight`: a failure in it means that no verdict can be `clean`."""
    messages = [doubt.message for doubt in doubts]
    notes = tuple(Finding(level=Level.NOTE, message=note) for note in loaded.notes)
    why = "; ".join(dict.fromkeys(messages))
    return Run(probe="preflight", findings=notes, failure=Failure(FailureKind.DOUBT, why) if why else None)


def doubts_about(loaded: Loaded) -> list[Doubt]:
    """Of the file, of the images, and of what the net makes of them."""
    stated = (*loaded.doubts, *(loaded.clean.doubts if loaded.clean is not None else ()))
    return [*map(Doubt, stated), *_of_the_net(loaded)]


def _of_the_net(loaded: Loaded) -> Iterator[Doubt]:
    import torch

    suspect, clean = loaded.suspect, loaded.clean
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pixels = torch.rand((16, *suspect.shape), generator=generator).to(suspect.device)
        if clean is not None:
            pixels = torch.cat([pixels, next(iter(clean.batches(64, suspect.device)))[0]])
        logits, again = suspect(pixels).float(), suspect(pixels).float()
    if not bool(torch.isfinite(logits).all()):
        yield Doubt("the net's outputs are not finite numbers", hopeless=True)
        return
    if not torch.equal(logits, again):
        yield Doubt("the net does not answer the same twice")
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        yield Doubt("the net's outputs are probabilities, not logits: give a net without its softmax", hopeless=True)
    if bool((logits.std(0) < 1e-6).all()):
        yield Doubt("the net gives every image the same answer", hopeless=True)
    if suspect.classes < 4:
        yield Doubt(f"{suspect.classes} classes are too few to tell an outlier from the others")
    if clean is None:
        yield Doubt("no clean images were given: only the probes that need none ran")
    elif loaded.clean_accuracy is not None and loaded.clean_accuracy < _floor(suspect.classes):
        accuracy = f"accuracy on the clean images is {loaded.clean_accuracy:.0%}, near chance"
        yield Doubt(f"{accuracy}: the normalisation, the class order or the images are wrong", hopeless=True)


def _floor(classes: int) -> float:
    """Half-way between nothing and a usable net: twice chance plus a tenth, at most one half."""
    return min(0.5, 2 / classes + 0.1)
