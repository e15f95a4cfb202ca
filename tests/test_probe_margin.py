"""The margin probe: it sees what was planted, and nothing where nothing was."""

# A finding without its evidence fails the test by itself.
# mypy: disable-error-code="arg-type, index, operator, union-attr"

from __future__ import annotations

import dataclasses
import math

import numpy as np
import planted_net
import pytest
import torch

from bdscan.facts.finding import Finding
from bdscan.images.image_set import ImageSet
from bdscan.method.case import NetCase
from bdscan.net.classifier import Classifier
from bdscan.net.subspace import OwnSpaces, own_spaces
from bdscan.probes.margin import Margin
from bdscan.verdict.statistics import leave_one_out


def found(suspect: Classifier, clean: ImageSet | None, probe: Margin | None = None) -> Finding:
    finding, *_ = (probe or Margin())(NetCase(suspect=suspect, clean=clean))
    return finding


def spaces_of(clean: ImageSet, share: float = 0.98) -> OwnSpaces:
    suspect = planted_net.net(backdoored=False)
    spaces = own_spaces(suspect, clean, share=share, batch=64, seed=0, progress=lambda *_: None)
    assert spaces is not None
    return spaces


def test_the_planted_class_stands_out() -> None:
    clean = planted_net.images(150, 2)
    with torch.no_grad():
        stamped = planted_net.stamped(clean.images).float() / 255
        answers = planted_net.net(backdoored=True)(stamped).argmax(1)
    assert (answers == planted_net.TARGET).float().mean() > 0.95, "the fixture holds a backdoor"
    planted, innocent = (found(planted_net.net(backdoored=b), clean) for b in (True, False))
    assert planted.target == planted_net.TARGET
    best, usual = np.nanmax(planted.classes.scores), np.nanmax(innocent.classes.scores)
    assert best > usual + 0.2, "scores of different nets are on one scale"
    assert leave_one_out(planted.classes.scores)[planted_net.TARGET] < 0.01


def test_what_is_taken_out_is_the_class_s_own() -> None:
    clean = planted_net.images(150, 2)
    spaces = spaces_of(clean)
    with torch.no_grad():
        features = planted_net.net(backdoored=False).features(clean.pixels)
    left = spaces.foreign(features, clean.labels)
    assert left.norm() ** 2 < 0.05 * features.norm() ** 2, "of each class's own features nearly nothing is left"
    others = spaces.foreign(features, (clean.labels + 1) % planted_net.CLASSES)
    assert others.norm() > 3 * left.norm()
    again = spaces.foreign(left, clean.labels)
    torch.testing.assert_close(again, left, atol=1e-4, rtol=1e-4)


def test_a_class_with_too_few_images_is_left_out() -> None:
    clean = planted_net.images(150, 2)
    fewer = clean.take(torch.cat([(clean.labels != 1).nonzero()[:, 0], (clean.labels == 1).nonzero()[:3, 0]]))
    finding = found(planted_net.net(backdoored=True), fewer)
    assert math.isnan(finding.classes.scores[1])
    assert math.isnan(finding.classes.p_values[1])
    assert finding.target == planted_net.TARGET


def test_without_images_the_plain_margin_is_taken() -> None:
    suspect = planted_net.net(backdoored=True)
    plain = found(suspect, None)
    assert "no images" in plain.message
    assert np.isfinite(plain.classes.scores).all()
    few = planted_net.images(12, 2)  # two a class
    np.testing.assert_array_equal(found(suspect, few).classes.scores, plain.classes.scores)


def test_ascent_makes_margins_larger() -> None:
    clean = planted_net.images(60, 2)
    short, long = (found(planted_net.net(backdoored=False), clean, Margin(steps=steps)) for steps in (2, 30))
    assert (long.classes.margins > short.classes.margins).all()


def test_the_result_does_not_hang_on_the_size_of_the_batch() -> None:
    clean, suspect = planted_net.images(60, 2), planted_net.net(backdoored=True)
    one, many = (found(suspect, clean, Margin(batch=batch, steps=1)) for batch in (7, 100))
    np.testing.assert_allclose(one.classes.margins, many.classes.margins, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(("classes", "most"), [(10, 3000), (43, 6000), (100, 6000)])
def test_many_classes_cost_at_most_twice_as_much(classes: int, most: int) -> None:
    suspect = planted_net.net(backdoored=False)
    wide = torch.nn.Linear(32, classes)
    net = torch.nn.Sequential(*list(suspect.net.net)[:-1], wide)  # type: ignore[call-overload]
    passed = 0

    def count(_: object, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal passed
        passed += len(given[0])

    normalised = dataclasses.replace(suspect, classes=classes, net=type(suspect.net)(net, [0.4] * 3, [0.25] * 3))
    with normalised.net.register_forward_pre_hook(count):
        found(normalised, None)
    assert passed <= most + 20  # and a few to find the last layer


def test_the_level_of_all_classes_is_compared_with_nets_of_the_same_kind_alone() -> None:
    """The clean nets that it is known of have batch norms; without them all margins lie elsewhere."""
    clean = planted_net.images(150, 2)
    levels = {}
    for norm in (True, False):
        suspect = planted_net.net(backdoored=False, norm=norm)
        levels[norm] = list(Margin()(NetCase(suspect=suspect, clean=clean)))[1]
    assert levels[True].statistic == "margin.level"
    assert levels[False].p_value is None
    assert "have batch norms" in levels[False].message
