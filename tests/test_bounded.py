"""A net is run within bounds: what would take too much memory or time is refused before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.deadline import OutOfTime, within
from bdscan.facts.problem import Problem
from bdscan.load.arch.bounded import Bounded, OutOfProportion
from bdscan.load.arch.match import count_outputs

LINE, WEIGHT = torch.ones(1 << 10), torch.ones(1, 1, 1, 1)
BOMBS: dict[str, Callable[[], Tensor]] = {
    "broadcast sum": lambda: LINE[:, None, None] + LINE[:, None] + LINE,
    "outer product": lambda: LINE[:, None].expand(-1, 1 << 10).reshape(-1, 1) @ LINE[None],
    "repeat": lambda: LINE.repeat(1 << 20),
    "join": lambda: torch.cat([LINE] * (1 << 12)),
    "index": lambda: LINE[None].index_select(0, torch.zeros(1 << 12, dtype=torch.long)),
    "fill": lambda: torch.zeros(1 << 40),
    "range": lambda: torch.arange(1 << 40),
    "pad": lambda: nn.functional.pad(LINE, (1 << 30, 1 << 30)),
    "copy of a view": lambda: torch.ones(1).expand(1 << 40).clone(),
    "cast of a view": lambda: torch.ones(1).expand(1 << 40).double(),
    "padded convolution": lambda: nn.functional.conv2d(torch.ones(1, 1, 4, 4), WEIGHT, padding=1 << 12),
    "resize": lambda: nn.functional.interpolate(torch.ones(1, 1, 4, 4), scale_factor=1e4),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_tensor_out_of_proportion_is_made(bomb: str) -> None:
    with torch.no_grad(), Bounded(1 << 20), pytest.raises(OutOfProportion):
        BOMBS[bomb]()


@pytest.mark.parametrize("wide", [1 << 14, 1 << 10])
def test_work_is_bounded_too(wide: int) -> None:
    big = torch.ones(1).expand(wide, 1 << 30 if wide == 1 << 10 else wide)
    pixels = torch.ones(1).expand(1, 1, 1 << 14, 1 << 14)
    with torch.no_grad(), Bounded(1 << 30), pytest.raises(OutOfProportion, match="operations"):
        big @ big.T if wide == 1 << 10 else nn.functional.avg_pool2d(pixels, 1 << 11, stride=1)


def test_the_sum_is_bounded_where_all_is_kept() -> None:
    with Bounded(1 << 20, altogether=1 << 12):
        kept = [LINE + 1 for _ in range(4)]
        with pytest.raises(OutOfProportion):
            kept.append(LINE + 1)


def test_the_results_are_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 4)).eval()
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        alone = net(pixels)
        with Bounded(1 << 20):
            assert torch.equal(net(pixels), alone)


def test_a_net_that_needs_far_more_than_its_images_is_refused() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 1 << 15, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(Problem, match="out of proportion"):
        count_outputs(wide, (3, 64, 64))


def test_the_budget_holds_inside_a_net() -> None:
    with within(0, time.monotonic() - 1), pytest.raises(OutOfTime):
        count_outputs(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (3, 8, 8))
