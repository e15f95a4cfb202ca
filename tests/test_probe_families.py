"""The families probe: it finds a known trigger by trying, shows it, and says nothing of an innocent net."""

from __future__ import annotations

import corner_net
import numpy as np
import planted_net
import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.evidence import MaskedPattern
from bdscan.facts.finding import Finding, Level
from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.subspace import own_spaces
from bdscan.probes.families import Families
from bdscan.triggers.catalogue import CatalogueTrigger, catalogue
from bdscan.triggers.forms import stamper
from bdscan.verdict.statistics import leave_one_out


def found(suspect: Classifier, clean: ImageSet, **changes: object) -> list[Finding]:
    working, held_out = clean.split(0.5, 0)
    return list(Families(**changes)(ImageCase(suspect=suspect, clean=working, held_out=held_out)))  # type: ignore[arg-type]


def guesses(shape: tuple[int, int, int]) -> list[CatalogueTrigger]:
    return [guess for kind in catalogue(shape).values() for guess in kind]


def test_a_planted_patch_is_found_and_shown() -> None:
    findings = found(planted_net.net(backdoored=True), planted_net.images(240, 2), threshold=1.0)
    spread, shown = findings[:2]
    assert spread.statistic == "families.patches"
    assert spread.target == planted_net.TARGET
    assert leave_one_out(spread.classes.scores)[planted_net.TARGET] < 0.01
    assert shown.demonstrated
    assert shown.level is Level.BACKDOOR
    assert "checkered" in shown.message
    assert isinstance(shown.trigger.pixels, MaskedPattern)
    assert (shown.pictures.images != shown.pictures.stamped).any()


def test_an_innocent_net_is_shown_nothing() -> None:
    clean = planted_net.images(240, 2)
    for finding in found(planted_net.net(backdoored=False), clean):
        assert not finding.demonstrated
        assert finding.level is not Level.BACKDOOR


def test_what_is_shown_holds_on_images_it_was_not_chosen_by() -> None:
    """The figure in the message is that of the held-out images, recomputed here from the trigger."""
    clean = planted_net.images(240, 2)
    suspect = planted_net.net(backdoored=True)
    shown = found(suspect, clean, threshold=1.0)[1]
    assert shown.target is not None
    _, held_out = clean.split(0.5, 0)
    others = held_out.take((held_out.labels != shown.target).nonzero()[:, 0])
    stamp = stamper(shown.trigger.pixels)
    with torch.no_grad():
        share = float((suspect(stamp(others.pixels)).argmax(1) == shown.target).float().mean())
    assert f"{share:.0%} of held-out images" in shown.message


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 64, 48), (4, 12, 12)])
def test_every_guess_changes_pixels_and_leaves_them_pixels(shape: tuple[int, int, int]) -> None:
    pixels = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    before = pixels.clone()
    for guess in guesses(shape):
        stamped = guess.stamp(pixels)
        assert stamped.shape == pixels.shape, guess.words
        assert float(stamped.min()) >= 0, guess.words
        assert float(stamped.max()) <= 1, guess.words
        assert float((stamped - pixels).square().mean()) > 1e-6, guess.words
        assert torch.equal(pixels, before), guess.words


def test_no_two_guesses_are_the_same() -> None:
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stamped = [guess.stamp(pixels).flatten() for guess in guesses((3, 32, 32))]
    apart = torch.cdist(torch.stack(stamped), torch.stack(stamped)) + 9 * torch.eye(len(stamped))
    assert float(apart.min()) > 0.01


def test_the_known_attacks_are_on_the_list() -> None:
    """SIG's ripple and BadNets' corner, pixel by pixel; written out here, not taken from the list."""
    listed = {guess.words: guess for guess in guesses((3, 32, 32))}
    grey = torch.full((1, 3, 32, 32), 0.5)
    ripple = 0.5 + 0.12 * torch.sin(2 * torch.pi * torch.arange(32) * 6 / 32)
    found_ripple = listed["a horizontal sine of 6 waves, amplitude 12%"].stamp(grey)
    torch.testing.assert_close(found_ripple, ripple.expand(1, 3, 32, 32))
    corner = listed["a white 3x3 patch bottom right"].stamp(grey)
    assert corner[..., 28:31, 28:31].min() == 1
    assert (corner != grey).sum() == 27
    eight = listed["colours squeezed to 8 levels"].stamp(
        torch.linspace(0, 1, 1024).view(1, 1, 32, 32).expand(1, 3, 32, 32)
    )
    assert len(eight.unique()) == 8


def test_margins_are_those_of_the_own_spaces() -> None:
    """The probe reckons all classes of an image at once; one by one the answer is the same."""
    from bdscan.probes.families import _Trial

    clean, suspect = planted_net.images(60, 2), planted_net.net(backdoored=False)
    spaces = own_spaces(suspect, clean, share=0.98, batch=64, seed=0, progress=lambda *_: None)
    assert spaces is not None
    with torch.no_grad():
        features = suspect.features(clean.pixels)
        together = _Trial(suspect, clean, spaces)._margins(features)
        for c in range(suspect.classes):
            alone = spaces.margin(features, torch.full((len(clean),), c))
            torch.testing.assert_close(together[:, c], alone, atol=1e-3, rtol=1e-3)


def test_few_images_a_class_are_enough_to_try() -> None:
    """Without own subspaces the classes are compared by plain margins, for which no reference nets stand."""
    findings = found(planted_net.net(backdoored=True), planted_net.images(36, 2), threshold=1.0)
    assert findings[0].target == planted_net.TARGET
    assert all(f.statistic is None for f in findings)
    assert any(f.demonstrated and f.target == planted_net.TARGET for f in findings)


def test_grey_images_are_tried_without_colours() -> None:
    words = " ".join(guess.words for guess in guesses((1, 28, 28)))
    assert "white 3x3" in words
    assert not any(colour in words for colour in (" red ", "yellow", "sepia"))
    findings = found(corner_net.net(colours=1), corner_net.images(60, colours=1), threshold=0.0)
    assert len(findings) == 3


@pytest.mark.parametrize("classes", [10, 100])
def test_many_classes_cost_no_more_passes(classes: int) -> None:
    passed = 0

    def count(_: object, given: tuple[Tensor, ...]) -> None:
        nonlocal passed
        passed += len(given[0])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    suspect = Classifier(Normalised(net, [0.5] * 3, [0.25] * 3), (3, 32, 32), classes)
    pictures = torch.randint(0, 256, (120, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    clean = ImageSet(pictures, torch.arange(120) % classes)
    suspect.net.register_forward_pre_hook(count)
    list(Families()(ImageCase(suspect=suspect, clean=clean, held_out=clean)))
    assert passed < 8500


def test_scores_do_not_hang_on_the_scale_of_the_logits() -> None:
    clean, suspect = planted_net.images(240, 2), planted_net.net(backdoored=True).clone()
    before = found(suspect, clean)[0].classes.scores
    head = suspect.module(suspect.head)
    with torch.no_grad():
        head.weight.mul_(10)  # type: ignore[operator]
        head.bias.mul_(10)  # type: ignore[operator]
    np.testing.assert_allclose(found(suspect, clean)[0].classes.scores, before, atol=0.02)
