"""Small nets of our own, built from the shapes in the file and named as the file names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from torch import nn

from bdscan.load.nets import mobilenet, preact, resnet, vgg
from bdscan.load.nets.candidate import Candidate, Family, Misfit, Outline

_FAMILIES = (resnet.candidates, preact.residual, preact.wide, vgg.candidates, mobilenet.candidates)
# What a family raises where a tensor or a side that it relies on is not there.
_NOT_OF_THE_FAMILY = (KeyError, ValueError, IndexError, ZeroDivisionError, RuntimeError)


def candidates(outline: Outline) -> Iterator[Candidate]:
    """Every net of our families that such tensors could belong to; whether they all fit is for the caller to check."""
    for family in _FAMILIES:
        yield from candidates_of(family, outline)


def candidates_of(family: Family, outline: Outline) -> Iterator[Candidate]:
    """The same of one family; none where it cannot be read as one of its nets."""
    try:
        candidates_found = list(family(outline))
    except _NOT_OF_THE_FAMILY:
        return
    yield from (replace(candidate, build=partial(_build_or_misfit, candidate.build)) for candidate in candidates_found)


def _build_or_misfit(build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except _NOT_OF_THE_FAMILY:
        raise Misfit from None
