"""Large images pass a net a few at a time, and the answers are the same."""

from __future__ import annotations

import pytest
import torch
from planted_net import TARGET, images, net
from torch import Tensor, nn

from bdscan.images import image_set
from bdscan.method import registry
from bdscan.method.case import ImageCase
from bdscan.net.training_plan import plan_for
from bdscan.triggers.invert import invert

FEW = 40


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_set, "MAX_POSITIONS", FEW * 16 * 16)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", [n for n in registry.names("probes") if n not in ("artifact", "generator")])
def test_no_probe_shows_the_net_more_images_than_memory_holds(name: str) -> None:
    suspect, seen = net(backdoored=True), list[int]()

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(len(given[0]))

    handle = suspect.net.register_forward_pre_hook(count)
    probe = registry.configure("probes", name, {"steps": "3"} if name in ("margin", "noise", "inversion") else {})
    list(probe(ImageCase(suspect=suspect, clean=images(160, 3), held_out=images(120, 5))))
    handle.remove()
    assert seen
    assert max(seen) <= FEW


def _sizes() -> Tensor:
    found = invert(
        net(backdoored=True),
        images(160, 3),
        "patch",
        (0, TARGET),
        steps=8,
        images=100,
        seed=0,
        progress=lambda *_: None,
    )
    return found.size


def test_a_search_in_parts_finds_the_same_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _sizes()
    monkeypatch.setattr(image_set, "MAX_POSITIONS", FEW * 16 * 16)
    torch.testing.assert_close(_sizes(), whole, rtol=0.05, atol=1e-3)


def test_a_net_for_large_images_is_trained_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = plan_for(net(backdoored=False), images(600, 3), 5, 50).batch
    monkeypatch.setattr(image_set, "MAX_POSITIONS", FEW * 16 * 16)
    assert plan_for(net(backdoored=False), images(600, 3), 5, 50).batch == FEW < usual
