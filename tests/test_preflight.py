"""What makes every answer void is told, and no verdict is clean then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLES
from torch import nn

from bdscan.facts.finding import Verdict
from bdscan.images.image_set import ImageSet
from bdscan.load.assembly.loaded import Loaded
from bdscan.net.classifier import Classifier, Normalised
from bdscan.pipeline import Options, inspect
from bdscan.pipeline.preflight import doubts_about, preflight


def loaded(suspect: Classifier, clean: ImageSet | None, accuracy: float | None) -> Loaded:
    return Loaded(
        suspect=suspect,
        clean=clean,
        format="pytorch zip",
        arch="tiny",
        normalize="none",
        tensors_loaded=1,
        tensors_total=1,
        clean_accuracy=accuracy,
        doubts=(),
        notes=(),
        wrapper=None,
        prefix="",
    )


def rebuilt(suspect: Classifier, net: nn.Module, classes: int | None = None) -> Classifier:
    return Classifier(Normalised(net, [0.0] * 3, [1.0] * 3), suspect.shape, classes or suspect.classes)


def why(net: Loaded) -> str:
    """Of the doubt; empty where there is none."""
    failure = preflight(net, doubts_about(net)).failure
    return failure.message if failure else ""


def test_a_sound_net_with_sound_images_raises_no_doubt(tiny: Classifier, few: ImageSet) -> None:
    assert why(loaded(tiny, few, 0.9)) == ""


def test_probabilities_instead_of_logits(tiny: Classifier, few: ImageSet) -> None:
    soft = rebuilt(tiny, nn.Sequential(tiny.net, nn.Softmax(1)))
    assert "probabilities" in why(loaded(soft, few, 0.9))


@pytest.mark.parametrize("accuracy", [0.0, 1 / 6, 0.3])
def test_accuracy_near_chance(tiny: Classifier, few: ImageSet, accuracy: float) -> None:
    assert "near chance" in why(loaded(tiny, few, accuracy))


def test_no_images(tiny: Classifier) -> None:
    assert "no clean images" in why(loaded(tiny, None, None))


def test_three_classes(tiny: Classifier) -> None:
    three = rebuilt(tiny, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), 3)
    assert "too few" in why(loaded(three, None, None))


def test_what_the_set_itself_doubts_is_kept(tiny: Classifier, few: ImageSet) -> None:
    doubtful = replace(few, doubts=("only one class",))
    assert "only one class" in why(loaded(tiny, doubtful, 0.9))


def test_answers_that_change_or_never_change_or_are_no_numbers(tiny: Classifier, few: ImageSet) -> None:
    class Noisy(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return tiny.net(pixels) + torch.rand(())  # type: ignore[no-any-return]

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.weight * torch.arange(6.0).expand(len(pixels), 6)

    noisy = nn.Sequential(Noisy(), nn.Linear(6, 6))
    assert "same twice" in why(loaded(rebuilt(tiny, noisy), few, 0.9))
    assert "same answer" in why(loaded(rebuilt(tiny, Same()), few, 0.9))
    broken = nn.Sequential(tiny.net, nn.Linear(6, 6))
    broken[1].weight.data.fill_(float("nan"))  # type: ignore[operator]
    assert "not finite" in why(loaded(rebuilt(tiny, broken), few, 0.9))


def test_where_the_net_is_wrong_about_the_images_no_probe_looks_at_it(tmp_path: Path) -> None:
    data = np.random.default_rng(0)
    noise = data.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=noise, labels=np.arange(60) % 12)
    told = inspect(str(SAMPLES / "models" / "backdoored.pt"), Options(clean=str(tmp_path / "noise.npz")))
    assert [run.probe for run in told.runs] == ["artifact", "preflight"]
    assert told.verdict is Verdict.INCONCLUSIVE
    assert "near chance" in str(told.runs[-1].failure)
