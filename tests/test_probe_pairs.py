"""The pairs probe: it finds a patch that works on one class only, shows it, and says nothing of an innocent net."""

# A finding without its evidence fails the test by itself.
# mypy: disable-error-code="union-attr"

from __future__ import annotations

from functools import cache

import numpy as np
import planted_net
import pytest
import torch
from findings import compared

from bdscan.facts.evidence import MaskedPattern
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.probes.pairs import Pairs
from bdscan.triggers.forms import stamper
from bdscan.verdict.statistics import two_way

SOURCE = 1


@cache
def found(backdoored: bool) -> tuple[Finding, ...]:
    """Six classes are too few to be sure of anything: the backdoored net's best pair is contested whatever its p."""
    working, held_out = planted_net.images(360, 2).split(0.5, 0)
    suspect = planted_net.net(backdoored=backdoored, source=SOURCE)
    return tuple(
        Pairs(threshold=2 if backdoored else 0.01)(ImageCase(suspect=suspect, clean=working, held_out=held_out))
    )


def test_the_planted_net_is_what_the_tests_take_it_for() -> None:
    clean, suspect = planted_net.images(240, 3), planted_net.net(backdoored=True, source=SOURCE)
    with torch.no_grad():
        went = suspect(planted_net.stamped(clean.images).float() / 255).argmax(1)
    assert float((went[clean.labels == SOURCE] == planted_net.TARGET).float().mean()) > 0.95
    assert float((went == clean.labels)[clean.labels != SOURCE].float().mean()) > 0.9


def test_a_patch_for_one_class_is_found_and_shown() -> None:
    compared, shown = found(backdoored=True)
    assert compared.statistic == "pairs.patch"
    assert compared.target == planted_net.TARGET
    assert compared.level is Level.SUSPECT
    assert int(np.nanargmax(compared.classes.scores)) == planted_net.TARGET
    assert shown.demonstrated
    assert shown.target == planted_net.TARGET
    assert isinstance(shown.trigger.pixels, MaskedPattern)
    assert shown.trigger.room is not None
    assert shown.pictures.images.shape == shown.pictures.stamped.shape


def test_what_is_told_of_the_patch_holds_on_images_it_was_not_made_from() -> None:
    shown = found(backdoored=True)[1]
    _, held_out = planted_net.images(360, 2).split(0.5, 0)
    stamp = stamper(shown.trigger.pixels)
    with torch.no_grad():
        went = planted_net.net(backdoored=True, source=SOURCE)(stamp(held_out.images.float() / 255)).argmax(1)
    mine = float((went[held_out.labels == SOURCE] == planted_net.TARGET).float().mean())
    rest = (held_out.labels != SOURCE) & (held_out.labels != planted_net.TARGET)
    assert f"sends {mine:.0%} of held-out images" in shown.message
    assert f"and {float((went[rest] == planted_net.TARGET).float().mean()):.0%} of those of the other" in shown.message


def test_an_innocent_net_is_shown_nothing() -> None:
    (compared,) = found(backdoored=False)
    assert compared.level is Level.NOTE
    assert compared.p_value is not None
    assert compared.p_value > 0.05


def test_where_no_patch_is_found_it_says_so() -> None:
    suspect, clean = planted_net.net(backdoored=False), planted_net.images(240, 2)
    (finding,) = Pairs(steps=1)(ImageCase(suspect=suspect, clean=clean, held_out=clean))
    assert "too few patches were found" in finding.message
    assert finding.p_value is None


def test_with_few_images_of_a_class_it_says_that_it_does_not_search(few: ImageSet) -> None:
    suspect, clean = planted_net.net(backdoored=False), planted_net.images(60, 2)
    (finding,) = Pairs()(ImageCase(suspect=suspect, clean=clean, held_out=clean))
    assert "not searched" in finding.message
    assert finding.p_value is None


def test_of_many_classes_those_are_taken_that_earlier_probes_point_to(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdscan.facts.finding import Run
    from bdscan.probes import pairs

    monkeypatch.setattr(pairs, "MAX_CLASSES", 4)
    p = np.array([0.5, 0.5, 0.01, 0.5, 0.5, 0.02])
    earlier = Run(probe="head", family="head", findings=(Finding(level=Level.NOTE, message="", classes=compared(p)),))
    suspect, clean = planted_net.net(backdoored=False), planted_net.images(240, 2)
    taken = Pairs()._entrants(ImageCase(suspect=suspect, clean=clean, held_out=clean, runs=(earlier,)), suspect, clean)
    assert len(taken) == len(set(taken)) == 4
    assert {2, 5} <= set(taken)


def test_the_regression_leaves_what_rows_columns_and_likeness_do_not_explain() -> None:
    generator = np.random.default_rng(0)
    beside = generator.normal(size=(8, 8))
    table = generator.normal(size=(8, 1)) + generator.normal(size=(1, 8)) + 0.7 * beside
    table[2, 5] -= 3
    np.fill_diagonal(table, np.nan)
    table[4, 6] = np.nan
    left = two_way(table, beside)
    assert np.isnan(left[4, 6])
    assert left[2, 5] == pytest.approx(-3, abs=0.05)
    left[2, 5] = 0
    assert np.nanmax(np.abs(left)) < 0.05
