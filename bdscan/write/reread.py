"""What was written, read again as a stranger would, and compared with what was meant."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from bdscan.load.arch.match import FilledNet, fit
from bdscan.load.assembly.graphs import READERS
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import Contents, survey
from bdscan.load.nets.candidate import Candidate
from bdscan.net.classifier import Classifier, Normalised
from bdscan.write.file_tensors import Tensors

_IMAGES = 4
_MAX_ERRORS = 50  # rounding errors add up on the way to a logit; so many times one error, relative to the largest logit


def tensors(place: Path, prefix: str, intended: Tensors, *, ordered: bool) -> Tensors:
    """The written file's tensors are those that were meant, bit by bit."""
    written = read(survey(place))
    if (ordered and list(written.tensors) != list(intended)) or written.tensors.keys() != intended.keys():
        raise AssertionError("the written file holds other tensors than were meant")
    if written.prefix != prefix:
        raise AssertionError(f"the written names begin with {written.prefix!r}, not with {prefix!r}")
    for name, tensor in intended.items():
        actual = written.tensors[name]
        if actual.dtype != tensor.dtype or actual.shape != tensor.shape or not _same_bytes(actual, tensor):
            raise AssertionError(f"the written tensor {name} is not the one that was meant")
    return written.tensors


def answers(written: Tensors, loaded: Loaded, cleaned: Classifier) -> None:
    """The original's architecture with the written tensors in it gives the cleaned model's logits."""
    skeleton = copy.deepcopy(loaded.suspect.net.net).cpu()
    candidate = Candidate(name=loaded.arch, build=lambda: skeleton, convert=loaded.convert, needs_real_tensors=True)
    fitted = fit(candidate, written)
    if not isinstance(fitted, FilledNet):
        raise AssertionError(f"the written tensors do not fit the net they came from: {fitted}")
    coarsest = max((torch.finfo(t.dtype).eps for t in written.values() if t.is_floating_point()), default=0.0)
    compare(fitted.net, cleaned, coarsest)


def graph(contents: Contents, place: Path, cleaned: Classifier, rounding: float) -> None:
    """The written file is as sound as the original was, and its own graph gives the cleaned model's logits."""
    written = survey(place)
    if [danger.message for danger in written.dangers] != [danger.message for danger in contents.dangers]:
        raise AssertionError("the written file is not made as the original is")
    net = READERS[contents.format](written.weights).net
    net.entry = cleaned.net.net.entry  # what the file leaves open is as it was found to be
    compare(net, cleaned, rounding)


def compare(net: nn.Module, cleaned: Classifier, rounding: float) -> None:
    """On random pixels, behind the same normalisation."""
    old = copy.deepcopy(cleaned.net).cpu()
    new = Normalised(net.eval(), old.mean.flatten().tolist(), old.std.flatten().tolist())
    pixels = torch.rand((_IMAGES, *cleaned.shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, actual = old(pixels), new(pixels)
    bound = _MAX_ERRORS * max(rounding, torch.finfo(torch.float32).eps) * max(1.0, float(expected.abs().max()))
    distance = float((expected - actual).abs().max()) if actual.shape == expected.shape else float("inf")
    if not distance <= bound:
        raise AssertionError(
            f"the written model's logits are {distance:.2g} from the cleaned model's, over {bound:.2g}"
        )


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    pair = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*pair)
