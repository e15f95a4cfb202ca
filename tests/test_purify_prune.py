"""Pruning: which channels go, which are spared, and that those gone are gone from the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import corner_net
import numpy as np
import planted_net
import pytest
import torch
from findings import compared
from torch import Tensor, nn

from bdscan.facts.evidence import AddedChange, MaskedPattern, RecoveredTrigger, TriggerPixels
from bdscan.facts.finding import Finding, Level, Run
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.method.case import PurifyCase
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.training_plan import accuracy
from bdscan.purify._channels import Site, sites, with_feeders, zero
from bdscan.purify.prune import Prune

BARE = Prune(epochs=0)


def shown(target: int, pixels: TriggerPixels) -> tuple[Run, ...]:
    trigger = RecoveredTrigger(pixels=pixels)
    finding = Finding(level=Level.BACKDOOR, message="shown", target=target, demonstrated=True, trigger=trigger)
    return (Run(probe="inversion", findings=(finding,)),)


def corner(**changes: object) -> PurifyCase:
    """The net built by hand, and the trigger that its fourth channel answers."""
    recovered = corner_net.patch().findings[0].trigger
    assert recovered is not None
    given = PurifyCase(
        suspect=corner_net.net(), clean=corner_net.images(200), runs=shown(corner_net.TARGET, recovered.pixels)
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def planted() -> PurifyCase:
    mask, pattern = np.zeros((16, 16), np.float32), np.zeros((16, 16, 3), np.float32)
    mask[-4:, -4:] = 1
    pattern[-4:, -4:] = ((np.arange(4)[:, None] + np.arange(4)) % 2)[..., None]
    runs = shown(planted_net.TARGET, MaskedPattern(mask, pattern))
    return PurifyCase(suspect=planted_net.net(backdoored=True), clean=planted_net.images(240, 3), runs=runs)


def obeys(suspect: Classifier, stamped: Tensor, labels: Tensor, target: int) -> float:
    with torch.no_grad():
        went = suspect(stamped).argmax(1)
    return float((went[labels != target] == target).float().mean())


@pytest.mark.parametrize("layers", ["all", "last"])
def test_the_channel_that_answers_the_trigger_goes_and_no_other(layers: Literal["all", "last"]) -> None:
    case = corner()
    assert case.suspect is not None
    treated = replace(BARE, layers=layers)(case)
    before, after = case.suspect.net.state_dict(), treated.suspect.net.state_dict()
    assert before.keys() == after.keys()
    assert not after["net.0.weight"][corner_net.CHANNEL].any()
    assert not after["net.0.bias"][corner_net.CHANNEL].any()
    assert torch.equal(after["net.0.weight"][:3], before["net.0.weight"][:3])
    assert torch.equal(after["net.4.weight"], before["net.4.weight"]), "the head is not touched"
    fresh = corner_net.images(60, seed=5)
    pictures = corner_net.stamped(fresh.pixels)
    assert obeys(case.suspect, pictures, fresh.labels, corner_net.TARGET) == 1
    assert obeys(treated.suspect, pictures, fresh.labels, corner_net.TARGET) < 0.2
    assert accuracy(treated.suspect, fresh) == 1
    assert "1 of 4 in `0`" in treated.notes[0]
    assert "accuracy from 100.0% to 100.0%" in treated.notes[1]


def test_channels_that_clean_images_need_are_spared() -> None:
    """The trigger makes everything bluer: channel 2 answers it, and is what class 2 is told by."""
    change = np.zeros((corner_net.SIDE, corner_net.SIDE, 3), np.float32)
    change[..., 2] = 0.1
    case = corner(runs=shown(corner_net.TARGET, AddedChange(change)))
    assert case.suspect is not None
    with pytest.raises(Problem, match="can be spared"):
        BARE(case)
    assert "in `0`" in replace(BARE, floor=1.0)(case).notes[0], "a floor that allows everything spares nothing"


def test_a_planted_backdoor_goes_and_does_not_come_back_with_the_tuning() -> None:
    case = planted()
    assert case.suspect is not None
    digest = case.suspect.digest()
    treated = Prune()(case)
    assert case.suspect.digest() == digest, "the original is evidence"
    fresh = planted_net.images(300, 9)
    pictures = planted_net.stamped(fresh.images).float() / 255
    assert obeys(case.suspect, pictures, fresh.labels, planted_net.TARGET) > 0.9
    assert obeys(treated.suspect, pictures, fresh.labels, planted_net.TARGET) < 0.1
    assert accuracy(treated.suspect, fresh) >= accuracy(case.suspect, fresh) - 0.03
    before, after = case.suspect.net.state_dict(), treated.suspect.net.state_dict()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    norms = [m for m in treated.suspect.net.modules() if isinstance(m, nn.BatchNorm2d)]
    gone = [(norm.weight == 0) & (norm.bias == 0) for norm in norms]
    assert any(g.any() for g in gone), "still zero after tuning"
    convs = [m for m in treated.suspect.net.modules() if isinstance(m, nn.Conv2d)]
    for conv, zeros in zip(convs, gone, strict=True):
        assert not conv.weight[zeros].any(), "and so is the convolution before"


def test_the_answer_is_the_same_twice() -> None:
    first = Prune(epochs=1)(planted())
    torch.manual_seed(99)
    second = Prune(epochs=1)(planted())
    assert first.suspect.digest() == second.suspect.digest()
    assert first.notes == second.notes


def test_a_class_under_suspicion_is_enough() -> None:
    """No trigger was recorded: one is looked for, for the class that the probe names."""
    case = planted()
    p_values = np.where(np.arange(planted_net.CLASSES) == planted_net.TARGET, 1e-6, 0.5)
    named = Finding(level=Level.SUSPECT, message="stands out", classes=compared(p_values))
    treated = replace(BARE, steps=30)(replace(case, runs=(Run(probe="margin", findings=(named,)),)))
    fresh = planted_net.images(300, 9)
    pictures = planted_net.stamped(fresh.images).float() / 255
    assert obeys(treated.suspect, pictures, fresh.labels, planted_net.TARGET) < 0.5


def test_nothing_to_prune_by() -> None:
    with pytest.raises(Problem, match="no trigger was recovered") as caught:
        Prune()(corner(runs=()))
    assert caught.value.hint


def test_unknown_layers() -> None:
    with pytest.raises(Problem, match="`all` or `last`") as caught:
        registry.configure("purify", "prune", {"layers": "first"})
    assert caught.value.status == USAGE


def test_a_net_without_channels() -> None:
    flat = Normalised(nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 5)), [0.5] * 3, [0.5] * 3)
    with pytest.raises(Problem, match="no channels to prune"):
        Prune()(replace(corner(), suspect=Classifier(flat, (3, 12, 12), 5)))


def test_one_image_a_class_leaves_none_for_selection() -> None:
    clean = corner_net.images(200)
    one = torch.stack([(clean.labels == label).nonzero()[0, 0] for label in clean.labels.unique()])
    with pytest.raises(Problem, match="too few images"):
        Prune()(replace(corner(), clean=clean.take(one)))


class Residual(nn.Module):
    """A stem that a norm reads, and a shortcut beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        stem = self.stem(pixels)
        inner = self.conv(self.norm(stem).relu())
        logits: Tensor = self.head((stem + self.last(inner)).relu().mean((2, 3)))
        return logits


def test_a_convolution_is_zeroed_only_where_nothing_else_reads_it() -> None:
    suspect = Classifier(Normalised(Residual(), [0.5] * 3, [0.5] * 3), (3, 12, 12), 5)
    where = sites(suspect)
    assert where == (Site("norm", 4, feeder="stem"), Site("last", 4, feeder="conv"))
    channels = [("norm", 1), ("last", 2)]
    zero(suspect, channels)
    pixels = corner_net.images(8).pixels
    with torch.no_grad():
        before = suspect(pixels)
        assert with_feeders(suspect, where, channels, pixels) == (*channels, ("conv", 2))
        assert torch.allclose(suspect(pixels), before, atol=1e-6)
    assert suspect.net.state_dict()["net.stem.weight"][1].any()
    assert not suspect.net.state_dict()["net.conv.weight"][2].any()


class Transformer(nn.Module):
    """Patches, one block's neurons at every position, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.up, self.act, self.down = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        logits: Tensor = self.head((tokens + self.down(self.act(self.up(tokens)))).mean(1))
        return logits


def test_a_transformer_has_its_neurons_pruned() -> None:
    net = Normalised(Transformer(), [0.5] * 3, [0.5] * 3)
    assert sites(Classifier(net, (3, 12, 12), 5)) == (Site("up", 16, axis=-1),)


def test_selection_never_sees_the_images_that_are_kept_back() -> None:
    """A purifier is not given them; what it sets apart, it takes from its own."""
    treated = BARE(corner())
    assert "on 50 images" in treated.notes[1]
