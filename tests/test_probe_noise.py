"""The noise probe: it sees what was planted, leaves nothing behind, and says when it cannot look."""

# A finding without its evidence fails the test by itself.
# mypy: disable-error-code="arg-type, operator, union-attr"

from __future__ import annotations

import dataclasses

import numpy as np
import planted_net
import pytest
import torch

from bdscan.facts.evidence import ClassScores
from bdscan.facts.finding import Finding, Level, Run
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier, Normalised
from bdscan.probes import noise
from bdscan.probes.noise import Noise


def found(suspect: Classifier, clean: ImageSet, probe: Noise | None = None, runs: tuple[Run, ...] = ()) -> Finding:
    (finding,) = (probe or Noise())(ImageCase(suspect=suspect, clean=clean, held_out=clean, runs=runs))
    return finding


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "convolutions only"])
def test_noise_drives_images_towards_every_class(norm: bool) -> None:
    """By foreign features alone, which is what the noise is steered by."""
    suspect, clean = planted_net.net(backdoored=True, norm=norm), planted_net.images(150, 2)
    short, long = (found(suspect, clean, Noise(steps=steps)).classes.margins for steps in (3, 20))
    assert (long > short).all()


def test_classes_do_not_disturb_one_another() -> None:
    """Each class has its own noise, so the same comes out whether they are handled together or one after another."""
    suspect, clean = planted_net.net(backdoored=True), planted_net.images(150, 2)
    one, all_at_once = (found(suspect, clean, Noise(batch=batch, steps=3)).classes.margins for batch in (20, 200))
    np.testing.assert_allclose(one, all_at_once, rtol=0.05, atol=0.1)


def test_noise_stops_growing_when_little_accuracy_is_left() -> None:
    clean, suspect = planted_net.images(150, 2), planted_net.net(backdoored=False)
    steps: list[int] = []
    for left in (0.7, 0.15):
        seen: list[int] = []
        case = ImageCase(
            suspect=suspect, clean=clean, held_out=clean, progress=lambda done, *_, seen=seen: seen.append(done)
        )
        list(Noise(left=left)(case))
        steps.append(seen[-1])
    assert steps[0] < steps[1] < Noise().steps - 1


def test_nothing_is_left_behind_when_stopped_under_way() -> None:
    suspect, clean = planted_net.net(backdoored=True), planted_net.images(60, 2)
    before = suspect.digest()

    def progress(done: int, total: int, what: str) -> None:
        if what.startswith("noise") and done == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        list(Noise()(ImageCase(suspect=suspect, clean=clean, held_out=clean, progress=progress)))
    assert suspect.digest() == before
    assert not any(module._forward_hooks for module in suspect.net.modules())


def test_it_says_why_it_did_not_look() -> None:
    suspect = planted_net.net(backdoored=True)
    few = found(suspect, planted_net.images(12, 2))
    assert few.level is Level.NOTE
    assert "fewer than five" in few.message
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 6))
    without_maps = Classifier(Normalised(flat, [0.4] * 3, [0.25] * 3), (3, 16, 16), 6)
    assert "no maps" in found(without_maps, planted_net.images(60, 2)).message


def test_of_too_many_classes_the_largest_margins_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "MAX_CLASSES", 4)
    suspect, clean = planted_net.net(backdoored=True), planted_net.images(150, 2)
    scores = ClassScores(scores=np.array([0, 0, 5.0, 0, 9.0, np.nan]))
    margins = Finding(level=Level.NOTE, message="margins", classes=scores)
    runs = (Run(probe="margin", family="margin", findings=(margins,)),)
    tried = np.isfinite(found(suspect, clean, dataclasses.replace(Noise(), steps=3), runs).classes.scores)
    assert tried.sum() == 4
    assert tried[[2, 4]].all()
