"""Grad-CAM against the formula written out by hand, and the choice of its layer."""

from __future__ import annotations

import corner_net
import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.grad_cam import grad_cam, grad_cam_layer


def suspect(net: nn.Module, shape: tuple[int, int, int], classes: int) -> Classifier:
    return Classifier(Normalised(net, [0.0] * shape[0], [1.0] * shape[0]), shape, classes)


@pytest.mark.parametrize("inplace", [False, True])
def test_matches_the_formula(inplace: bool) -> None:
    net = corner_net.net(inplace=inplace)
    pixels = corner_net.stamped(corner_net.images(3).pixels)
    heat = grad_cam(net, pixels, torch.tensor([2, 0, 4]), "1")
    conv = net.module("0")
    for image, target, found in zip(pixels, (2, 0, 4), heat, strict=True):
        maps = conv(image[None]).relu()[0]
        weights = net.head_weight[target] / corner_net.SIDE**2  # the gradient of the mean over positions
        raw = (weights[:, None, None] * maps).sum(0).relu()
        torch.testing.assert_close(found, (raw - raw.min()) / (raw.max() - raw.min()))


def test_finds_the_patch() -> None:
    heat = grad_cam(corner_net.net(), corner_net.stamped(corner_net.images(5).pixels), torch.full((5,), 2), "1")
    assert heat[:, -3, -3].tolist() == pytest.approx([1] * 5)  # the one place where the whole filter lies on the patch
    heat[:, -3, -3] = 0
    assert heat.max() < 0.1


def test_a_zero_map_stays_zero() -> None:
    net = corner_net.net()
    net.module("4").weight.data.neg_()  # type: ignore[operator]
    heat = grad_cam(net, corner_net.images(4).pixels, torch.zeros(4, dtype=torch.long), "1")
    assert torch.equal(heat, torch.zeros_like(heat))


def test_leaves_no_hook_and_no_gradient_behind() -> None:
    net = corner_net.net()
    with torch.no_grad():  # callers may have switched gradients off
        grad_cam(net, corner_net.images(2).pixels, torch.zeros(2, dtype=torch.long), grad_cam_layer(net))
    assert corner_net.hooks(net) == 0
    assert all(parameter.grad is None for parameter in net.net.parameters())


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1)
        self.act = nn.ReLU()
        self.short = nn.AvgPool2d(stride)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.act(self.act(self.conv(maps)) + self.short(maps))
        return out


def test_takes_the_last_stage_that_is_fine_enough() -> None:
    stages = [Residual(3, stride) for stride in (1, 2, 2)]
    net = suspect(nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), (3, 16, 16), 4)
    assert grad_cam_layer(net) == "1"  # 16, 8, 4 positions: the block, with what its branch is added to


def test_takes_a_coarse_layer_where_there_is_no_finer_one() -> None:
    net = suspect(nn.Sequential(Residual(3, 4), nn.Flatten(), nn.Linear(27, 4)), (3, 12, 12), 4)
    assert grad_cam_layer(net) == "0"


def test_refuses_a_net_without_maps_and_layers_it_does_not_have() -> None:
    flat = suspect(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), (3, 4, 4), 4)
    with pytest.raises(Problem, match="no maps"):
        grad_cam_layer(flat)
    net, pixels, targets = corner_net.net(), corner_net.images(1).pixels, torch.tensor([0])
    with pytest.raises(Problem, match="no layer `9`"):
        grad_cam(net, pixels, targets, "9")
    with pytest.raises(Problem, match="no maps"):
        grad_cam(net, pixels, targets, "3")
    assert corner_net.hooks(net) == 0
