"""Backdoors planted in a copy: what is missed caps the verdict, and the suspect stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bdscan.facts.finding import Finding, Level, Run
from bdscan.images.image_set import ImageSet
from bdscan.method.case import Case
from bdscan.net.classifier import Classifier
from bdscan.pipeline import self_check


def told(p: float, target: int, classes: int, shown: bool = False) -> tuple[Run, ...]:
    """What probes would find that gives this p to the target and little to the others."""
    p_values = np.where(np.arange(classes) == target, p / classes, 0.5)
    found = Finding(level=Level.NOTE, message="looked", target=target, shown=shown, arrays={"p_values": p_values})
    return (Run(probe="inversion", family="inversion", findings=(found,)),)


@pytest.fixture
def case(tiny: Classifier, few: ImageSet) -> Case:
    working, held_out = few.split(0.5, 0)
    return Case(suspect=tiny, clean=working, held_out=held_out)


def planted(
    case: Case, quick: float, slow: float, monkeypatch: pytest.MonkeyPatch, shown: bool = False
) -> tuple[tuple[Finding, ...], list[tuple[str, ...]]]:
    """What is found where quick probes give the planted class one p and all probes another, and who looked."""
    monkeypatch.setattr(self_check, "success", lambda *_: 0.95)
    monkeypatch.setattr(self_check, "EPOCHS", 1)
    assert case.suspect is not None
    classes = case.suspect.classes
    targets = torch.randperm(classes, generator=torch.Generator().manual_seed(case.seed)).tolist()
    looked: list[tuple[str, ...]] = []
    forms: list[str] = []

    def look(seen: Case, probes: tuple[str, ...], settings: dict[str, str]) -> tuple[Run, ...]:
        assert seen.suspect is not case.suspect
        looked.append(probes)
        if "forms" in settings:
            forms.append(settings["forms"])
        target = targets[len(forms) - 1]
        return told(quick, target, classes) if probes == self_check.QUICK else told(slow, target, classes, shown)

    found = tuple(self_check.check(case, look))
    assert forms == [strength.forms for strength in self_check.STRENGTHS]
    return found, looked


def test_what_is_seen_does_not_stand_in_the_way(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found, looked = planted(case, 1e-9, 0.4, monkeypatch)
    assert all("was seen" in finding.message for finding in found)
    assert self_check.unseen(found) is None
    assert set(looked) == {self_check.QUICK}


def test_what_the_quick_probes_miss_the_others_may_see(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found, looked = planted(case, 0.4, 1e-9, monkeypatch)
    assert all("was seen" in finding.message for finding in found)
    assert self_check.unseen(found) is None
    assert looked == [self_check.QUICK, self_check.SLOW] * len(self_check.STRENGTHS)


def test_a_trigger_that_is_shown_is_seen_whatever_its_p(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planted(case, 0.4, 0.3, monkeypatch, shown=True)
    assert all("was seen" in finding.message and "shown" in finding.message for finding in found)
    assert self_check.unseen(found) is None
    assert not any(finding.shown for finding in found)  # of the copy, not of the suspect


def test_what_is_missed_is_a_reason_not_to_be_clean(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planted(case, 0.4, 0.4, monkeypatch)
    assert "NOT seen" in (self_check.unseen(found) or "")


@pytest.mark.parametrize(("rates", "rounds"), [([0.95], 1), ([0.7, 0.92], 2), ([0.7, 0.85], 2)])
def test_a_weak_plant_gets_a_second_round(
    rates: list[float], rounds: int, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a few images follow is no trigger of the kind that is searched."""
    fitted, left = [], list(rates) * len(self_check.STRENGTHS)
    monkeypatch.setattr(self_check, "fit", lambda *_, **__: fitted.append(1))
    monkeypatch.setattr(self_check, "success", lambda *_: left.pop(0))
    assert case.suspect is not None
    classes = case.suspect.classes
    found = tuple(self_check.check(case, lambda *_: told(1e-9, 0, classes)))
    assert len(fitted) == rounds * len(self_check.STRENGTHS)
    assert all(f"success {rates[-1]:.0%}" in finding.message for finding in found)


def test_a_net_in_which_nothing_can_be_planted_is_of_unknown_sensitivity() -> None:
    assert "unknown" in (self_check.unseen(()) or "")


def test_the_suspect_stays_as_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.suspect is not None
    before = case.suspect.digest()
    planted(case, 1e-9, 1e-9, monkeypatch)
    assert case.suspect.digest() == before
    assert not any(parameter.requires_grad for parameter in case.suspect.net.parameters())
    assert not case.suspect.net.training
