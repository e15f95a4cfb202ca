"""Small nets of our own, built from the shapes in the file and named as the file names them."""

from __future__ import annotations

from collections.abc import Iterator

from bdscan.load.nets import mobilenet, preact, resnet, vgg
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate, Family, Outline

_FAMILIES = (resnet.candidates, preact.residual, preact.wide, vgg.candidates, mobilenet.candidates)


def candidates(outline: Outline) -> Iterator[Candidate]:
    """Every net of our families that such tensors could belong to; whether they all fit is for the caller to check."""
    for family in _FAMILIES:
        yield from candidates_of(family, outline)


def candidates_of(family: Family, outline: Outline) -> Iterator[Candidate]:
    """The same of one family; none where it cannot be read as one of its nets."""
    try:
        yield from list(family(outline))
    except NOT_SUCH_A_NET:
        return
