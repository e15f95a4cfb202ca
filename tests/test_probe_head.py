"""The smallest shift against closed forms and brute force; the probe on heads with a known quiet direction."""

from __future__ import annotations

import corner_net
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import NetCase
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.latent import implied_features, smallest_shift
from bdscan.probes.head import Head, _whitened


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_two_classes_in_closed_form() -> None:
    weight, bias, features = draw(2, 6), draw(2, seed=1), draw(3, 6, seed=2)
    shifts, reached = smallest_shift(features, weight, bias, margin=0.5)
    assert reached.all()
    for k in (0, 1):
        apart, lead = weight[k] - weight[1 - k], (features @ weight.T + bias)
        short = (0.5 - (lead[:, k] - lead[:, 1 - k])).clamp(min=0)
        torch.testing.assert_close(shifts[:, k], short[:, None] * apart / apart.square().sum(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("boxed", [False, True])
def test_no_feasible_point_is_nearer(boxed: bool) -> None:
    weight, bias, features = draw(4, 3), draw(4, seed=1), draw(2, 3, seed=2).abs()
    ceiling = torch.tensor([2.0, 2.5, 3.0])
    shifts, reached = smallest_shift(features, weight, bias, ceiling=ceiling if boxed else None, steps=2000)
    points = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(3)) * (ceiling if boxed else 12)
    points = points if boxed else points - 6
    answers = (points @ weight.T + bias).argmax(1)
    for i, start in enumerate(features):
        for k in range(4):
            feasible = points[answers == k]
            if not bool(reached[i, k]):
                assert len(feasible) == 0
                continue
            moved = start + shifts[i, k]
            logits = moved @ weight.T + bias
            assert logits[k] >= logits.max() - 0.05
            if boxed:
                assert (moved >= -1e-6).all()
                assert (moved <= ceiling + 1e-6).all()
            nearest = (feasible - start).norm(dim=1).min()
            assert shifts[i, k].norm() <= nearest + 0.01
            assert shifts[i, k].norm() >= nearest - 0.25  # the grid of points is coarse, but not that coarse


def test_a_class_out_of_the_box_is_not_reached() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    _, reached = smallest_shift(torch.tensor([[1.0, 0.0]]), weight, torch.zeros(2), ceiling=torch.tensor([2.0, 0.1]))
    assert reached.tolist() == [[True, True]]  # at (0.1, 0.1)
    _, reached = smallest_shift(
        torch.tensor([[1.0, 0.0]]), weight, torch.tensor([0.0, -5.0]), ceiling=torch.tensor([2.0, 0.1])
    )
    assert reached.tolist() == [[True, False]]


CLASSES, FEATURES, TARGET, QUIET = 6, 12, 4, 11


def pooled(*, backdoored: bool) -> Classifier:
    """2 x 2 x 3 block means go straight into the head; the backdoored one answers to a feature that is always dark."""
    head = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        head.weight.copy_(0.1 * draw(CLASSES, FEATURES) + 8 * torch.eye(CLASSES, FEATURES))
        head.weight[:, QUIET] = 0.1 * draw(CLASSES, seed=5)
        head.bias.zero_()
        if backdoored:
            head.weight[TARGET, QUIET] = 6
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), head)
    return Classifier(Normalised(net, [0.0] * 3, [1.0] * 3), (3, 8, 8), CLASSES)


def pictures() -> ImageSet:
    """A class is a bright block; the last block is all but black in every image."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(120) % CLASSES
    blocks = torch.randint(20, 90, (120, FEATURES), generator=generator)
    blocks[torch.arange(120), labels] += 130
    blocks[:, QUIET] //= 40
    images = blocks.view(120, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return ImageSet(images.to(torch.uint8), labels)


def about(found: list[Finding], words: str) -> Finding:
    (one,) = [finding for finding in found if words in finding.message]
    return one


def test_the_quiet_direction_names_the_target_and_its_channel() -> None:
    found = about(list(Head()(NetCase(suspect=pooled(backdoored=True), clean=pictures()))), "hardly use")
    assert found.target == TARGET
    assert found.channels[0] == QUIET
    assert found.classes.p_values.argmin() == TARGET
    assert found.p_value is not None
    assert found.p_value < 0.001


def test_whitening_is_what_it_says() -> None:
    rows, features, labels = draw(4, 5).double(), draw(60, 5, seed=1).double(), torch.arange(60) % 3
    answers = _whitened(rows, features, labels, 0.1)
    floor = 0.1 * (features - features.mean(0)).square().mean() * 60
    for k, row in enumerate(rows):  # class 3 has no images: nothing is taken out
        others = features[labels != k]
        spread = torch.cov(others.T, correction=0) + floor / len(others) * torch.eye(5)
        torch.testing.assert_close(answers[k], row * torch.linalg.solve(spread, row))


def test_the_clean_twin_has_no_quiet_row() -> None:
    found = list(Head()(NetCase(suspect=pooled(backdoored=False), clean=pictures())))
    quiet = about(found, "hardly use")
    assert quiet.p_value is not None
    assert quiet.p_value > 0.05
    assert {finding.level for finding in found} == {Level.NOTE}


def test_with_few_images_for_its_features_a_head_accuses_nobody() -> None:
    few = pictures().take(torch.arange(4))
    quiet = about(list(Head()(NetCase(suspect=pooled(backdoored=True), clean=few))), "hardly use")
    assert "evidence only" in quiet.message
    assert quiet.level is Level.NOTE
    assert quiet.p_value is None
    assert quiet.classes.p_values is None


def test_the_target_is_nearest_in_latent_space_when_the_quiet_feature_can_be_reached() -> None:
    clean = pictures()
    clean.images[0, 2, 4:, 4:] = 160  # one image shows that the feature can be bright
    found = about(list(Head()(NetCase(suspect=pooled(backdoored=True), clean=clean))), "nearest class")
    assert found.target == TARGET
    assert np.isfinite(found.classes.scores).all()


class Gated(nn.Module):
    """Batch norm, a ReLU that is no module, mean over positions, head; with or without something in between."""

    def __init__(self, *, shortcut: bool) -> None:
        super().__init__()
        self.bn, self.fc, self.shortcut = nn.BatchNorm2d(3), nn.Linear(3, 5), shortcut
        with torch.no_grad():
            self.bn.bias.copy_(torch.tensor([-0.5, 0.0, 1.0]))
            self.bn.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, maps: Tensor) -> Tensor:
        out = self.bn(maps) + (maps if self.shortcut else 0)
        answer: Tensor = self.fc(out.relu().mean((2, 3)))
        return answer


def gated(*, shortcut: bool) -> Classifier:
    return Classifier(Normalised(Gated(shortcut=shortcut), [0.0] * 3, [1.0] * 3), (3, 8, 8), 5)


def test_batch_norm_implies_the_mean_features() -> None:
    suspect = gated(shortcut=False)
    implied = implied_features(suspect)
    assert implied is not None
    seen = suspect.features(draw(2000, 3, 8, 8)).mean(0)  # what the norm was told to expect: mean 0, variance 1
    torch.testing.assert_close(implied[0], seen, atol=0.02, rtol=0.02)
    assert (implied[1] > implied[0]).all()


def test_without_images_the_shift_starts_there_or_is_left_out() -> None:
    with_shift = list(Head()(NetCase(suspect=gated(shortcut=False))))
    assert about(with_shift, "nearest class")
    without = list(Head()(NetCase(suspect=gated(shortcut=True))))
    assert about(without, "no latent shift")
    assert implied_features(corner_net.net()) is None


def test_rows_without_images() -> None:
    suspect = pooled(backdoored=True)
    suspect.module("2").weight.data[1] *= 10  # type: ignore[index,operator]
    found = about(list(Head()(NetCase(suspect=suspect))), "norm, of the last layer's rows")
    assert found.target == 1
    assert found.classes.scores.shape == (CLASSES,)


def test_stopped_it_leaves_nothing_behind() -> None:
    case = NetCase(suspect=pooled(backdoored=True), clean=pictures(), progress=corner_net.stop_after(1))
    with pytest.raises(corner_net.Stop):
        list(Head(batch=50)(case))
    assert case.suspect is not None
    assert corner_net.hooks(case.suspect) == 0


def test_one_class_missing_from_the_images_is_no_obstacle() -> None:
    clean = pictures()
    found = list(
        Head()(NetCase(suspect=pooled(backdoored=True), clean=clean.take((clean.labels != 2).nonzero()[:, 0])))
    )
    assert about(found, "hardly use").target == TARGET
    assert about(found, "nearest class").classes.scores.shape == (CLASSES,)
