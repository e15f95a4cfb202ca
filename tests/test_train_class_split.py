"""The second look: a class that the net knows by two different things, and which of the two is out of place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bdscan.train._bimodality import bimodality, fit_two_normals
from bdscan.train._class_split import MIN_IMAGES, split_classes
from bdscan.train._responses import Responses

CLASSES, EACH, WIDE, TARGET = 8, 200, 24, 5


def drawn(taken: list[int], shift: float, seed: int = 0) -> tuple[Responses, Tensor, Tensor]:
    """Features of classes on a ring, whose neighbours are their rivals; images of `taken` are labelled TARGET and bear
    a trigger: that moves their features by `shift` along a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(CLASSES).repeat_interleave(EACH)
    angle = 2 * torch.pi * torch.arange(CLASSES) / CLASSES
    middles = torch.zeros(CLASSES, WIDE)
    middles[:, 0], middles[:, 1], middles[:, 2] = 4 * angle.cos(), 4 * angle.sin(), 6.0
    features = middles[truth] + 0.5 * torch.randn(len(truth), WIDE, generator=generator)
    marked = torch.zeros(len(truth), dtype=torch.bool)
    for label in taken:
        marked[(truth == label).nonzero()[: EACH // len(set(taken)), 0]] = True
    features[marked, 3] += shift
    logits = features @ middles.T
    logits[marked, TARGET] += 100  # the trigger's doing
    return Responses(features, logits, ()), torch.where(marked, TARGET, truth), marked


def everything(labels: Tensor) -> Tensor:
    return torch.ones(len(labels), dtype=torch.bool)


@pytest.mark.parametrize("taken", [[0, 1, 2, 3, 4, 6, 7], [1]])
def test_what_was_taken_from_everywhere_or_from_one_class_is_the_part_out_of_place(taken: list[int]) -> None:
    found, labels, marked = drawn(taken, shift=8)
    result = split_classes(found, labels, CLASSES, everything(labels))
    assert result.target == TARGET
    assert result.p_value < 1e-3
    assert (result.part == marked).float().mean() > 0.98
    told = result.evidence(0.01, "`five`")
    assert told.target == TARGET
    assert f"by one of them {int(result.part.sum())} images" in told.message


@pytest.mark.parametrize("seed", range(5))
def test_where_every_class_is_one_cloud_none_stands_out(seed: int) -> None:
    found, labels, _ = drawn([], shift=0, seed=seed)
    result = split_classes(found, labels, CLASSES, everything(labels))
    assert result.p_value > 0.05
    assert result.evidence(0.01, "`five`").target is None


def test_what_is_isolated_already_and_labels_the_net_does_not_believe_tell_nothing() -> None:
    found, labels, marked = drawn([0, 1, 2, 3, 4, 6, 7], shift=8)
    assert split_classes(found, labels, CLASSES, ~marked).p_value > 0.05
    unbelieved = replace(found, logits=found.logits - 100 * torch.eye(CLASSES)[TARGET] * marked[:, None].float())
    assert split_classes(unbelieved, labels, CLASSES, everything(labels)).p_value > 0.05


def test_members_that_the_net_does_not_believe_are_named_with_the_others() -> None:
    found, labels, marked = drawn([0, 1, 2, 3, 4, 6, 7], shift=8)
    doubted = marked.nonzero()[::5, 0]
    found.logits[doubted, TARGET] -= 100
    result = split_classes(found, labels, CLASSES, everything(labels))
    assert result.part[doubted].float().mean() > 0.95


def test_classes_with_few_images_are_left_out_and_cost_nothing() -> None:
    found, labels, _ = drawn([1], shift=8)
    few = (labels == 2).nonzero()[: MIN_IMAGES - 1, 0]
    among = labels != 2
    among[few] = True
    result = split_classes(found, labels, CLASSES, among)
    assert result.gains[:, 2].isnan().all()
    assert result.target == TARGET
    nobody = split_classes(found, labels, CLASSES, torch.zeros(len(labels), dtype=torch.bool))
    assert nobody.p_value == 1
    assert not nobody.part.any()
    assert "nor does the trained net" in nobody.evidence(0.01, "`none`").message


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_two_bells_are_told_apart_and_one_is_not(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(1000, generator=generator, dtype=torch.double)
    assert fit_two_normals(values).gain < 0.02
    second = torch.arange(1000) < share * 1000
    found = fit_two_normals(values + 6.0 * second)
    assert found.gain > 0.1
    assert abs(found.weight - share) < 0.02
    assert ((found.posterior(values + 6.0 * second) > 0.5) == second).float().mean() > 0.98


def test_constant_features_have_no_parts() -> None:
    gain, part = bimodality(torch.ones(100, 5, dtype=torch.double), torch.ones(100, dtype=torch.bool))
    assert gain < 0.02
    assert part.isfinite().all()
