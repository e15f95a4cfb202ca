"""Backdoors planted in a copy: what is missed caps the verdict, and the suspect stays as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from findings import compared

from bdscan.facts.finding import Finding, Level, Run
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.method.probe import Probe, Stage
from bdscan.net.classifier import Classifier
from bdscan.pipeline import self_check


def runs_with(p: float, target: int, classes: int, shown: bool = False) -> tuple[Run, ...]:
    """What probes would find that gives this p to the target and little to the others."""
    p_values = np.where(np.arange(classes) == target, p / classes, 0.5)
    found = Finding(level=Level.NOTE, message="looked", target=target, demonstrated=shown, classes=compared(p_values))
    return (Run(probe="inversion", family="inversion", findings=(found,)),)


@pytest.fixture
def case(tiny: Classifier, few: ImageSet) -> ImageCase:
    working, held_out = few.split(0.5, 0)
    return ImageCase(suspect=tiny, clean=working, held_out=held_out)


def planted(
    case: ImageCase, quick: float, slow: float, monkeypatch: pytest.MonkeyPatch, shown: bool = False
) -> tuple[tuple[Finding, ...], list[str | None]]:
    """What is found where quick probes give the planted class one p and all probes another, and what was looked for."""
    monkeypatch.setattr(self_check, "success", lambda *_: 0.95)
    monkeypatch.setattr(self_check, "EPOCHS", 1)
    classes = case.suspect.classes
    targets = torch.randperm(classes, generator=torch.Generator().manual_seed(case.seed)).tolist()
    looked: list[str | None] = []

    def look(copied: ImageCase, form: str | None, target: int) -> self_check.Seen:
        assert copied.suspect is not case.suspect
        looked.append(form)
        assert target == targets[len(forms_of(looked)) - 1]
        found = runs_with(quick, target, classes) if form is not None else runs_with(slow, target, classes, shown)
        return self_check.Seen.of(target, found)

    found = tuple(self_check.check(case, look))
    assert forms_of(looked) == [strength.form for strength in self_check.STRENGTHS]
    return found, looked


def forms_of(looked: list[str | None]) -> list[str]:
    """Of the quick looks: each is for one form."""
    return [form for form in looked if form is not None]


def test_the_first_look_is_quick_and_the_second_is_what_a_verdict_rests_on() -> None:
    assert [name for name, _ in self_check.looking(quick=True)] == ["head", "margin", "inversion"]
    assert [name for name, _ in self_check.looking(quick=False)] == ["families", "head", "margin", "noise", "inversion"]


@pytest.mark.parametrize(("head", "turns"), [(1e-9, 1), (0.4, 2)])
def test_a_look_ends_with_what_settles_it(
    head: float, turns: int, case: ImageCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes that are still to come count as silent, not as agreeing."""
    asked: list[str] = []

    class Fixed(Probe[ImageCase]):
        family, stage = "any", Stage.ACCUSES

        def __init__(self, name: str, p: float) -> None:
            self.name, self.p = name, p

        def __call__(self, case: ImageCase) -> Iterator[Finding]:
            asked.append(self.name)
            yield runs_with(self.p, 1, case.suspect.classes)[0].findings[0]

    probes = [("head", Fixed("head", head)), ("margin", Fixed("margin", 1e-9)), ("noise", Fixed("noise", 1e-9))]
    monkeypatch.setattr(self_check, "looking", lambda *, quick: probes)
    assert self_check.looked(case, None, 1)
    assert asked == ["head", "margin", "noise"][:turns]


def test_what_is_seen_does_not_stand_in_the_way(case: ImageCase, monkeypatch: pytest.MonkeyPatch) -> None:
    found, looked = planted(case, 1e-9, 0.4, monkeypatch)
    assert all("was seen" in finding.message for finding in found)
    assert self_check.unseen(found) is None
    assert looked == forms_of(looked)


def test_what_the_quick_probes_miss_the_others_may_see(case: ImageCase, monkeypatch: pytest.MonkeyPatch) -> None:
    found, looked = planted(case, 0.4, 1e-9, monkeypatch)
    assert all("was seen" in finding.message for finding in found)
    assert self_check.unseen(found) is None
    assert looked == [form for strength in self_check.STRENGTHS for form in (strength.form, None)]


def test_a_trigger_that_is_shown_is_seen_whatever_its_p(case: ImageCase, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planted(case, 0.4, 0.3, monkeypatch, shown=True)
    assert all("was seen" in finding.message and "shown" in finding.message for finding in found)
    assert self_check.unseen(found) is None
    assert not any(finding.demonstrated for finding in found)  # of the copy, not of the suspect


def test_what_is_missed_is_a_reason_not_to_be_clean(case: ImageCase, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = planted(case, 0.4, 0.4, monkeypatch)
    assert "NOT seen" in (self_check.unseen(found) or "")


@pytest.mark.parametrize(("rates", "rounds"), [([0.95], 1), ([0.7, 0.92], 2), ([0.7, 0.85], 2)])
def test_a_weak_plant_gets_a_second_round(
    rates: list[float], rounds: int, case: ImageCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a few images follow is no trigger of the kind that is searched."""
    fitted, left = [], list(rates) * len(self_check.STRENGTHS)

    def retrained(net: Classifier, *_: object, **__: object) -> Classifier:
        fitted.append(1)
        return net.clone()

    monkeypatch.setattr(self_check, "retrained", retrained)
    monkeypatch.setattr(self_check, "success", lambda *_: left.pop(0))
    found = tuple(self_check.check(case, lambda *_: self_check.Seen(1e-9, demonstrated=False)))
    assert len(fitted) == rounds * len(self_check.STRENGTHS)
    assert all(f"success {rates[-1]:.0%}" in finding.message for finding in found)


def test_a_net_in_which_nothing_can_be_planted_is_of_unknown_sensitivity() -> None:
    assert "unknown" in (self_check.unseen(()) or "")


def test_the_suspect_stays_as_it_was(case: ImageCase, monkeypatch: pytest.MonkeyPatch) -> None:
    before = case.suspect.digest()
    planted(case, 1e-9, 1e-9, monkeypatch)
    assert case.suspect.digest() == before
    assert not any(parameter.requires_grad for parameter in case.suspect.net.parameters())
    assert not case.suspect.net.training
