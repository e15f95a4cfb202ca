"""Trigger inversion: which suspicions are put to the test, and which of them could prove anything."""

from __future__ import annotations

import numpy as np
import pytest
from findings import compared

from bdscan.facts.finding import Array, Finding, Level
from bdscan.probes.inversion import Inversion
from bdscan.triggers.forms import FORMS
from bdscan.verdict.statistics import holm

CLASSES = 10


def spread(p: float, target: int) -> Finding:
    """One class stands out in one form."""
    values = np.full(CLASSES, 0.5)
    values[target] = p
    adjusted = float(holm(values)[target])
    level = Level.SUSPECT if adjusted < 0.05 else Level.NOTE
    return Finding(level=level, message="", p_value=adjusted, target=target, classes=compared(values))


def before(p: float = 0.5, target: int = 0) -> Array:
    values = np.full(CLASSES, 0.5)
    values[target] = p
    return values


@pytest.mark.parametrize(("p", "proof"), [(2e-3, False), (2e-5, True)])
def test_a_class_that_stands_out_in_one_of_six_forms_proves_nothing_yet(p: float, proof: bool) -> None:
    spreads = {name: spread(0.5, 3) for name in FORMS} | {"lines": spread(p, 9)}
    assert Inversion()._suspicions(spreads, before()) == [("lines", 9, proof)]


def test_the_class_that_earlier_probes_are_sure_of_is_put_to_the_test_in_its_best_forms() -> None:
    spreads = {name: spread(0.5, 3) for name in FORMS} | {"patch": spread(0.02, 4), "lines": spread(2e-3, 9)}
    found = Inversion()._suspicions(spreads, before(1e-5, 4))
    assert found == [("lines", 9, False), ("patch", 4, True)]
