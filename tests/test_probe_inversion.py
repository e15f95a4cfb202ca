"""Trigger inversion: which suspicions are put to the test, and which of them could prove anything."""

from __future__ import annotations

import numpy as np
import planted_net
import pytest
import torch

from bdscan.probes.inversion import Inversion, _Search
from bdscan.triggers.forms import FORMS
from bdscan.triggers.invert import Arms
from bdscan.verdict.comparison import Comparison
from bdscan.verdict.joint import Joint, together

CLASSES = 10


def search(form: str, p: float, target: int) -> _Search:
    """One class stands out in one form."""
    values = np.full(CLASSES, 0.5)
    values[target] = p
    arms = Arms(None, tuple(range(CLASSES)), torch.ones(CLASSES), torch.ones(CLASSES), torch.ones(CLASSES))  # type: ignore[arg-type]
    return _Search(form, arms, np.ones(CLASSES), Comparison(1 - values, values))


def searches(**standing_out: tuple[float, int]) -> list[_Search]:
    """Some class is ahead in every form, and others stand out in some."""
    return [search(form, *standing_out.get(form, (0.5, 3))) for form in FORMS]


def suspicions(found: list[_Search], earlier: Joint | None) -> list[tuple[str, int, bool]]:
    return [(each.form, target, proof) for each, target, proof in Inversion()._suspicions(found, earlier)]


def before(p: float = 0.5, target: int = 0) -> Joint | None:
    values = np.full(CLASSES, 0.5)
    values[target] = p
    return together({"margin": [values]}, 1.0)


@pytest.mark.parametrize(("p", "proof"), [(2e-3, False), (2e-5, True)])
def test_a_class_that_stands_out_in_one_of_six_forms_proves_nothing_yet(p: float, proof: bool) -> None:
    assert suspicions(searches(lines=(p, 9)), before()) == [("lines", 9, proof)]


def test_the_class_that_earlier_probes_are_sure_of_is_put_to_the_test_in_its_best_forms() -> None:
    found = suspicions(searches(patch=(0.02, 4), lines=(2e-3, 9)), before(1e-5, 4))
    assert found == [("lines", 9, False), ("patch", 4, True)]


def test_a_form_that_leads_nowhere_says_nothing_of_the_classes() -> None:
    size, never = torch.linspace(0.5, 0.6, CLASSES), torch.zeros(CLASSES, dtype=torch.bool)
    arms = Arms(None, tuple(range(CLASSES)), ~never, size, never)  # type: ignore[arg-type]
    nowhere = _Search.compared("warp", arms, CLASSES)
    assert np.isnan(nowhere.classes.p_values).all()
    told = nowhere.finding(planted_net.net(backdoored=False), 0.05)
    assert "leads to any class" in told.message
    assert told.target is None
