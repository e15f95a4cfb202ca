"""Findings made for tests, and findings taken apart."""

from __future__ import annotations

import dataclasses

import numpy as np

from bdscan.facts.evidence import Array, ClassScores
from bdscan.facts.finding import Finding


def compared(p_values: Array) -> ClassScores:
    """What a probe that compared the classes leaves behind: the smaller its p, the larger the score of a class."""
    return ClassScores(scores=1 - np.asarray(p_values), p_values=np.asarray(p_values))


def leaves(value: object, name: str = "") -> dict[str, object]:
    """Every number, word and array of a finding, whatever types they are wrapped in."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [leaves(getattr(value, each.name), f"{name}.{each.name}") for each in dataclasses.fields(value)]
        return {key: leaf for each in inner for key, leaf in each.items()}
    return {name: value}


def alike(first: Finding, second: Finding) -> bool:
    """The same to the last digit."""
    one, other = leaves(first), leaves(second)
    return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return type(one) is type(other) and repr(one) == repr(other)
