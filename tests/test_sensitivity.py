"""Backdoors planted in a copy: what is missed caps the verdict, and the suspect stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from bdscan import sensitivity
from bdscan.case import Case
from bdscan.data import CleanSet
from bdscan.finding import Finding, Level
from bdscan.model import SuspectModel


def told(p: float, target: int, classes: int) -> list[Finding]:
    """What an inversion would find that gives this p to the target."""
    return [
        Finding(
            level=Level.NOTE,
            message="looked",
            arrays={"p_values": np.where(np.arange(classes) == target, p, 0.5)},
        )
    ]


@pytest.fixture
def case(tiny: SuspectModel, few: CleanSet) -> Case:
    working, held_out = few.split(0.5, 0)
    return Case(suspect=tiny, clean=working, held_out=held_out)


def planted(case: Case, p: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Finding, ...]:
    monkeypatch.setattr(sensitivity, "success", lambda *_: 0.95)
    monkeypatch.setattr(sensitivity, "EPOCHS", 1)
    assert case.suspect is not None
    classes = case.suspect.classes
    looked: list[str] = []

    def look(seen: Case, forms: str) -> list[Finding]:
        looked.append(forms)
        assert seen.suspect is not case.suspect
        return [finding for c in range(classes) for finding in told(p, c, classes)]

    found = tuple(sensitivity.check(case, look))
    assert looked == [strength.forms for strength in sensitivity.STRENGTHS]
    return found


def test_what_is_seen_does_not_stand_in_the_way(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(case, 1e-9, monkeypatch)
    assert all("was seen" in finding.message for finding in found)
    assert sensitivity.unseen(found) is None


def test_what_is_missed_is_a_reason_not_to_be_clean(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(case, 0.4, monkeypatch)
    assert "NOT seen" in (sensitivity.unseen(found) or "")


def test_a_net_in_which_nothing_can_be_planted_is_of_unknown_sensitivity() -> None:
    assert "unknown" in (sensitivity.unseen(()) or "")


def test_the_suspect_stays_as_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.suspect is not None
    before = case.suspect.digest()
    planted(case, 1e-9, monkeypatch)
    assert case.suspect.digest() == before
    assert not any(parameter.requires_grad for parameter in case.suspect.net.parameters())
    assert not case.suspect.net.training
