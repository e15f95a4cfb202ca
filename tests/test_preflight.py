"""What makes every answer void is told, and no verdict is clean then."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bdscan.facts.finding import Run
from bdscan.images.image_set import ImageSet
from bdscan.load.assembly.loaded import Loaded
from bdscan.net.classifier import Classifier, Normalised
from bdscan.pipeline.preflight import preflight


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


def why(run: Run) -> str:
    """Of the doubt; empty where there is none."""
    return run.failure.message if run.failure else ""


def test_a_sound_net_with_sound_images_raises_no_doubt(tiny: Classifier, few: ImageSet) -> None:
    assert preflight(loaded(tiny, few, 0.9)).failure is None


def test_probabilities_instead_of_logits(tiny: Classifier, few: ImageSet) -> None:
    soft = rebuilt(tiny, nn.Sequential(tiny.net, nn.Softmax(1)))
    assert "probabilities" in why(preflight(loaded(soft, few, 0.9)))


@pytest.mark.parametrize("accuracy", [0.0, 1 / 6, 0.3])
def test_accuracy_near_chance(tiny: Classifier, few: ImageSet, accuracy: float) -> None:
    assert "near chance" in why(preflight(loaded(tiny, few, accuracy)))


def test_no_images(tiny: Classifier) -> None:
    assert "no clean images" in why(preflight(loaded(tiny, None, None)))


def test_three_classes(tiny: Classifier) -> None:
    three = rebuilt(tiny, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), 3)
    assert "too few" in why(preflight(loaded(three, None, None)))


def test_what_the_set_itself_doubts_is_kept(tiny: Classifier, few: ImageSet) -> None:
    doubtful = replace(few, doubts=("only one class",))
    assert "only one class" in why(preflight(loaded(tiny, doubtful, 0.9)))


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
    assert "same twice" in why(preflight(loaded(rebuilt(tiny, noisy), few, 0.9)))
    assert "same answer" in why(preflight(loaded(rebuilt(tiny, Same()), few, 0.9)))
    broken = nn.Sequential(tiny.net, nn.Linear(6, 6))
    broken[1].weight.data.fill_(float("nan"))  # type: ignore[operator]
    assert "not finite" in why(preflight(loaded(rebuilt(tiny, broken), few, 0.9)))
