"""What was written, read again as a stranger would, and compared with what was meant."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from bdscan.load.arch.match import FilledNet, fit
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import Weights, read
from bdscan.load.contents import survey
from bdscan.load.nets.candidate import Candidate
from bdscan.net.classifier import Classifier, Normalised
from bdscan.write.names import Tensors

_IMAGES = 4
_SUMS = 50  # rounding errors add up on the way to a logit; so many times one error, relative to the largest logit


def tensors(place: Path, original: Weights, meant: Tensors, *, ordered: bool) -> Tensors:
    """The written file's tensors are those that were meant, bit by bit."""
    found = read(survey(place))
    if (ordered and list(found.tensors) != list(meant)) or found.tensors.keys() != meant.keys():
        raise AssertionError("the written file holds other tensors than were meant")
    if found.prefix != original.prefix:
        raise AssertionError(f"the written names begin with {found.prefix!r}, not with {original.prefix!r}")
    for name, tensor in meant.items():
        got = found.tensors[name]
        if got.dtype != tensor.dtype or got.shape != tensor.shape or not _same_bytes(got, tensor):
            raise AssertionError(f"the written tensor {name} is not the one that was meant")
    return found.tensors


def answers(found: Tensors, loaded: Loaded, cleaned: Classifier) -> None:
    """The original's architecture with the written tensors in it gives the cleaned model's logits."""
    skeleton = copy.deepcopy(loaded.suspect.net.net).cpu()
    candidate = Candidate(name=loaded.arch, build=lambda: skeleton, convert=loaded.convert, needs_real_tensors=True)
    fitted = fit(candidate, found)
    if not isinstance(fitted, FilledNet):
        raise AssertionError(f"the written tensors do not fit the net they came from: {fitted}")
    coarsest = max((torch.finfo(t.dtype).eps for t in found.values() if t.is_floating_point()), default=0.0)
    compare(fitted.net, cleaned, coarsest)


def compare(net: nn.Module, cleaned: Classifier, rounding: float) -> None:
    """On random pixels, behind the same normalisation."""
    old = copy.deepcopy(cleaned.net).cpu()
    new = Normalised(net.eval(), old.mean.flatten().tolist(), old.std.flatten().tolist())
    pixels = torch.rand((_IMAGES, *cleaned.shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, got = old(pixels), new(pixels)
    bound = _SUMS * max(rounding, torch.finfo(torch.float32).eps) * max(1.0, float(wanted.abs().max()))
    apart = float((wanted - got).abs().max()) if got.shape == wanted.shape else float("inf")
    if not apart <= bound:
        raise AssertionError(f"the written model's logits are {apart:.2g} from the cleaned model's, over {bound:.2g}")


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    pair = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*pair)
