"""Small nets of our own, built from the shapes in the file and named as the file names them."""

from __future__ import annotations

from collections.abc import Iterator

from bdscan.load.nets import mobilenet, preact, resnet, vgg
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate, Family, Outline

_FAMILIES = (resnet.candidates, preact.residual, preact.wide, vgg.candidates, mobilenet.candidates)

_HEADS = ("fc", "linear", "classifier")  # what the families call theirs


def candidates(outline: Outline) -> Iterator[Candidate]:
    """Every net of our families that such tensors could belong to; whether they all fit is for the caller to check."""
    for family in _FAMILIES:
        yield from candidates_of(family, outline)


def candidates_of(family: Family, outline: Outline) -> Iterator[Candidate]:
    """The same of one family; none where it cannot be read as one of its nets.

    Where the head is none that the family knows, it is given the plainest that takes as many features.
    """
    for readable in (outline, *_plain_headed(outline)):
        try:
            found = list(family(readable))
        except NOT_SUCH_A_NET:
            continue
        if found:
            yield from found
            return


def _plain_headed(outline: Outline) -> Iterator[Outline]:
    linear = [shape for name, shape in outline.items() if len(shape) == 2 and name.endswith(".weight")]
    for _, features in linear[:1]:
        for head in _HEADS:
            if f"{head}.weight" not in outline:
                yield {**outline, f"{head}.weight": (2, features), f"{head}.bias": (2,)}
