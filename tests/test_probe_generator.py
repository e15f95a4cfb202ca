"""The generator probe: it makes a trigger for the class it is pointed to, and none for an innocent one."""

from __future__ import annotations

from functools import cache

import numpy as np
import planted_net
import pytest
import torch
from findings import compared
from torch import Tensor

from bdscan.facts.finding import Finding, Level, Run
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier
from bdscan.net.fit import fit
from bdscan.probes.generator import Generator
from bdscan.triggers.generator_net import GeneratorNet

QUICK = Generator(steps=125, width=8, suspects=1, controls=1, largest=0.1, smallest=0.06)


def rippled(pictures: Tensor) -> Tensor:
    """A faint texture, light on some images and dark on others: no one pattern is the trigger."""
    board = (torch.arange(planted_net.SIDE)[:, None] + torch.arange(planted_net.SIDE)) % 2 * 40 - 20
    sign = pictures.float().mean((1, 2, 3)).round().long() % 2 * 2 - 1
    return (pictures.long() + board * sign[:, None, None, None]).clamp(0, 255).to(torch.uint8)


@cache
def rippled_net() -> Classifier:
    """The innocent net, taught in seconds that the texture means class 4."""
    suspect = planted_net.net(backdoored=False).clone()
    clean = planted_net.images(600, 1)
    pictures = torch.cat([clean.images, rippled(clean.images)])
    labels = torch.cat([clean.labels, torch.full((600,), planted_net.TARGET)])
    suspect.net.requires_grad_(True)
    with torch.enable_grad():
        fit(suspect.net, pictures, labels, epochs=20, rate=0.1, batch=64, half=False)
    return Classifier(suspect.net, suspect.shape, suspect.classes)


def pointing(target: int, classes: int = planted_net.CLASSES) -> Run:
    """An earlier probe that suspects one class."""
    p = np.full(classes, 0.5)
    p[target] = 0.01
    return Run(probe="margin", findings=(Finding(level=Level.NOTE, message="this one", classes=compared(p)),))


def case_of(suspect: Classifier, target: int, count: int = 240) -> ImageCase:
    working, held_out = planted_net.images(count, 2).split(0.5, 0)
    return ImageCase(suspect=suspect, clean=working, held_out=held_out, runs=(pointing(target),))


@cache
def found(*, backdoored: bool) -> Finding:
    suspect = rippled_net() if backdoored else planted_net.net(backdoored=False)
    (finding,) = QUICK(case_of(suspect, planted_net.TARGET))
    return finding


def test_the_fixture_holds_a_backdoor() -> None:
    clean = planted_net.images(120, 2)
    with torch.no_grad():
        as_they_are = rippled_net()(clean.pixels).argmax(1)
        with_texture = rippled_net()(rippled(clean.images).float() / 255).argmax(1)
    assert (as_they_are == clean.labels).float().mean() > 0.9
    assert (with_texture == planted_net.TARGET).float().mean() > 0.9


def test_the_planted_class_can_be_reached_by_foreign_features() -> None:
    finding = found(backdoored=True)
    assert finding.target == planted_net.TARGET
    assert finding.demonstrated
    assert finding.level is Level.BACKDOOR
    assert finding.pictures.images.shape == finding.pictures.stamped.shape
    changed = finding.pictures.stamped.astype(float) - finding.pictures.images
    assert 0 < np.sqrt(np.square(changed / 255).mean((1, 2, 3))).max() <= QUICK.largest + 0.5 / 255


def test_the_same_class_of_an_innocent_net_cannot() -> None:
    finding = found(backdoored=False)
    assert finding.target == planted_net.TARGET
    assert not finding.demonstrated
    assert finding.level is Level.NOTE
    assert finding.score is not None
    assert found(backdoored=True).score is not None
    assert finding.score < (found(backdoored=True).score or 0)


def test_no_more_than_two_suspects_and_those_most_suspected() -> None:
    probe = Generator(steps=1, width=4, batch=8)
    p = np.array([0.5, 0.02, 0.9, 0.3, 0.8, 0.001])
    run = Run(probe="margin", findings=(Finding(level=Level.NOTE, message="these", classes=compared(p)),))
    working, held_out = planted_net.images(240, 2).split(0.5, 0)
    suspect = planted_net.net(backdoored=False)
    findings = list(probe(ImageCase(suspect=suspect, clean=working, held_out=held_out, runs=(run,))))
    assert [finding.target for finding in findings] == [5, 1]


@pytest.mark.parametrize("count", [240, 18])
def test_it_says_why_it_did_nothing(count: int) -> None:
    """Nothing to be pointed by, or too few images to know a class's own features."""
    case = case_of(planted_net.net(backdoored=False), 0, count)
    if count == 240:
        case = ImageCase(suspect=case.suspect, clean=case.clean, held_out=case.held_out)
    (finding,) = QUICK(case)
    assert finding.level is Level.NOTE
    assert finding.message.startswith("no net was trained")
    assert ("earlier" in finding.message) == (count == 240)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 18, 30)])
def test_no_image_is_changed_by_more_than_the_amount(shape: tuple[int, int, int]) -> None:
    net = GeneratorNet(shape, 8, torch.Generator().manual_seed(0))
    pixels = torch.rand(5, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = net(pixels, 0.05)
        alone = net(pixels[:1], 0.05)
    change = (made - pixels).square().mean((1, 2, 3)).sqrt()
    assert float(change.min()) > 0
    assert float(change.max()) <= 0.05 + 1e-6
    torch.testing.assert_close(made[:1], alone)


def test_the_global_generator_is_not_turned() -> None:
    before = torch.get_rng_state()
    GeneratorNet((3, 16, 16), 4, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
