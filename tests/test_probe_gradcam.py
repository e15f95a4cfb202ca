"""The probe on a net whose trigger is known, and on nets it cannot look into."""

from __future__ import annotations

import corner_net
import numpy as np
import pytest
import torch
from findings import leaves
from torch import nn

from bdscan.facts.finding import Level
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier, Normalised
from bdscan.probes.gradcam import Gradcam


def test_the_heat_gathers_at_a_recovered_trigger() -> None:
    *_, found = Gradcam()(corner_net.case(runs=(corner_net.patch(),)))
    assert found.target == corner_net.TARGET
    assert found.layer == "1"
    assert found.score is not None
    assert found.score > 0.6
    assert "constancy of place is 1.00 with it" in found.message
    heat, pictures = found.pictures.heat, found.pictures.images
    assert pictures.dtype == np.uint8
    assert pictures.shape == (*heat.shape, 3)
    assert (pictures[:, -3, -3] == 255).all()
    assert {np.unravel_index(one.argmax(), one.shape) for one in heat} == {(9, 9)}


def test_clean_images_give_scores_for_every_class_and_pictures_that_pair_up() -> None:
    constant, concentrated = Gradcam(pictures=3)(corner_net.case())
    for found in (constant, concentrated):
        assert found.level == Level.NOTE
        assert "evidence only" in found.message
        assert found.classes.scores.shape == (5,)
        assert len(found.pictures.images) == len(found.pictures.heat) <= 3
        assert 0 <= found.pictures.heat.min() <= found.pictures.heat.max() <= 1


def test_an_object_at_a_fixed_place_is_seen_as_constant() -> None:
    clean = corner_net.images(60)
    clean.images[:] = clean.images // 8
    clean.images[:30, 0, 2:5, 2:5] = 179  # class 0 speaks from one place
    for i, place in enumerate(torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist(), start=30):
        row, column = divmod(place * 2, 9)
        clean.images[i, 1, row : row + 3, column : column + 3] = 179  # class 1 from anywhere
    constant = next(iter(Gradcam()(corner_net.case(clean=clean))))
    assert constant.target == 0
    assert constant.classes.scores[0] > 0.9
    assert constant.classes.scores[1] < 0.3


def test_a_net_without_maps_gets_one_note() -> None:
    net = Classifier(Normalised(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)), [0.0] * 3, [1.0] * 3), (3, 12, 12), 5)
    (found,) = Gradcam()(corner_net.case(suspect=net))
    assert found.level == Level.NOTE
    assert "no maps" in found.message


def test_one_colour() -> None:
    suspect, clean = corner_net.net(colours=1), corner_net.images(20, colours=1)
    found = list(Gradcam()(ImageCase(suspect=suspect, clean=clean, held_out=clean, runs=(corner_net.patch(1),))))
    assert len(found) == 3
    assert found[2].pictures.images.shape[3] == 1


@pytest.mark.parametrize("calls", range(5))
def test_stopped_anywhere_it_leaves_nothing_behind(calls: int) -> None:
    case = corner_net.case(runs=(corner_net.patch(),), progress=corner_net.stop_after(calls))
    with pytest.raises(corner_net.Stop):
        list(Gradcam(batch=10)(case))
    assert case.suspect is not None
    assert corner_net.hooks(case.suspect) == 0


def test_same_answer_twice_whatever_the_batch_and_without_the_global_seed() -> None:
    case = corner_net.case(runs=(corner_net.patch(),))
    state = torch.get_rng_state()
    first, second = list(Gradcam(images=15)(case)), list(Gradcam(images=15, batch=7)(case))
    assert torch.equal(state, torch.get_rng_state())
    assert [one.message for one in first] == [other.message for other in second]
    for one, other in zip(first, second, strict=True):
        for name, value in leaves(other).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(leaves(one)[name], value, atol=1e-5)
