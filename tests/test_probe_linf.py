"""The probe on a net in which the channel of the trigger is known."""

# A finding without its evidence fails the test by itself.
# mypy: disable-error-code="index, union-attr"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import corner_net
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.evidence import ClassScores, MaskedPattern, RecoveredTrigger
from bdscan.facts.finding import Finding, Level, Run
from bdscan.facts.problem import Problem
from bdscan.net.activations import Tally, altered, measured, norms_of, worth_measuring
from bdscan.net.classifier import Classifier, Normalised
from bdscan.probes.linf import L1, LINF, Linf


def test_norms_are_what_their_names_say() -> None:
    maps = torch.tensor([[[[-3.0, 0.0], [1.0, 0.0]]]])
    assert norms_of(maps, rectify=False)[0, 0].tolist() == pytest.approx([3, 1, (10 / 4) ** 0.5])
    assert norms_of(maps, rectify=True)[0, 0].tolist() == pytest.approx([1, 0.25, 0.5])


def test_a_tally_is_the_same_as_looking_at_everything_at_once() -> None:
    values = torch.rand(50, 4, 3, generator=torch.Generator().manual_seed(0))
    tally = Tally()
    for part in values.split(7):
        tally.add(part)
    np.testing.assert_allclose(tally.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(tally.spread, values.std(0, correction=0), rtol=1e-5)
    np.testing.assert_allclose(tally.peak, values.amax(0))


def test_what_is_kept_does_not_grow_with_maps_or_images() -> None:
    suspect = corner_net.net()
    with torch.no_grad(), measured(suspect, ("1",)) as seen:
        tally = Tally()
        for pixels, _ in corner_net.images(200).batches(50):
            suspect(pixels)
            assert seen["1"].shape == (50, 4, 3)
            tally.add(seen["1"])
    kept = [value for value in vars(tally).values() if isinstance(value, Tensor)]
    assert sum(value.numel() for value in kept) == 3 * 4 * 3
    assert all(value.untyped_storage().nbytes() <= 8 * 12 for value in kept)


def test_the_trigger_shows_in_l_inf_more_than_in_l1_and_its_channel_is_named() -> None:
    *_, found = Linf()(corner_net.case(runs=(corner_net.patch(),)))
    assert found.target == corner_net.TARGET
    assert found.layer == "1"
    assert found.channels[0] == corner_net.CHANNEL
    rise = found.norms.rise
    assert (rise[:3, LINF] > 3 * rise[:3, L1]).all()  # the colours: bright at the patch, hardly brighter on the whole
    assert "takes class 2 from 100% to" in found.message
    after = int(found.message.split("from 100% to ")[1].split("%")[0])
    assert after < 60  # what is left is the patch's own colour
    assert found.norms.norms.shape == (4, 3)


def test_a_channel_that_hardly_ever_fires_stands_out_and_is_tried() -> None:
    clean = corner_net.images(60)
    clean.images[7, :, 4:7, 4:7] = 255
    (found,) = Linf()(corner_net.case(clean=clean))
    assert found.channels == (corner_net.CHANNEL,)
    assert found.target == corner_net.TARGET
    assert found.score is not None
    assert found.threshold is not None
    assert found.score > found.threshold
    assert "evidence only" in found.message


def test_nothing_stands_out_among_plain_channels() -> None:
    (found,) = Linf()(corner_net.case())
    assert found.channels == ()
    assert found.target is None


def suspect(*layers: nn.Module) -> Classifier:
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return Classifier(Normalised(net, [0.0] * 3, [1.0] * 3), (3, 8, 8), 5)


def test_which_layers_are_measured() -> None:
    shared = nn.ReLU()
    conv: Callable[[int], nn.Module] = lambda taken: nn.Conv2d(taken, 4, 3, padding=1)  # noqa: E731
    norm: Callable[[], nn.Module] = lambda: nn.BatchNorm2d(4)  # noqa: E731
    assert worth_measuring(suspect(conv(3), norm(), nn.ReLU(), conv(4), norm(), nn.GELU())) == ("2", "5")
    assert worth_measuring(suspect(conv(3), norm(), shared, conv(4), norm(), shared)) == ("1", "4")
    assert worth_measuring(suspect(conv(3), norm())) == ("1",)
    assert worth_measuring(suspect(conv(3))) == ("0",)


def test_a_chosen_layer_is_the_only_one_and_must_exist() -> None:
    (found,) = Linf(layer="0")(corner_net.case())
    assert found.layer == "0"
    with pytest.raises(Problem, match="no layer of maps called `9`"):
        list(Linf(layer="9")(corner_net.case()))


def test_a_net_without_maps_gets_one_note() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 5))
    net = Classifier(Normalised(flat, [0.0] * 3, [1.0] * 3), (3, 12, 12), 5)
    (found,) = Linf()(corner_net.case(suspect=net))
    assert "no layer of maps" in found.message


def test_altered_holds_the_channel_only_inside_the_block() -> None:
    net, pixels = corner_net.net(inplace=True), corner_net.images(4).pixels
    before = net(pixels)
    with altered(net, "1", (corner_net.CHANNEL,), 1.0):
        assert (net(pixels).argmax(1) == corner_net.TARGET).all()
    torch.testing.assert_close(net(pixels), before)


@pytest.mark.parametrize("calls", range(7))
def test_stopped_anywhere_it_leaves_nothing_behind(calls: int) -> None:
    case = corner_net.case(runs=(corner_net.patch(),), progress=corner_net.stop_after(calls))
    with pytest.raises(corner_net.Stop):
        list(Linf(batch=10)(case))
    assert case.suspect is not None
    assert corner_net.hooks(case.suspect) == 0


def test_same_answer_twice_whatever_the_batch() -> None:
    case = corner_net.case(runs=(corner_net.patch(),))
    first, second = list(Linf()(case)), list(Linf(batch=7)(case))
    assert [one.message for one in first] == [other.message for other in second]


def test_of_all_classes_triggers_the_one_that_was_taught_lifts_a_channel_furthest() -> None:
    """Nine of ten pixels in the class's colour for the others; they need no channel of their own."""
    side, (found,) = corner_net.SIDE, corner_net.patch().findings
    assert found.trigger is not None
    colours = {0: (1.0, 0, 0), 1: (0, 1.0, 0), 3: (0.7, 0.7, 0), 4: (0, 0.7, 0.7)}
    painted = {
        target: MaskedPattern(
            np.full((side, side), 0.9, dtype=np.float32), np.tile(np.array(colour, np.float32), (side, side, 1))
        )
        for target, colour in colours.items()
    }
    triggers = {target: RecoveredTrigger(pixels=pixels, form="patch") for target, pixels in painted.items()}
    triggers[corner_net.TARGET] = replace(found.trigger, form="patch")
    scores = ClassScores(scores=np.zeros(5), triggers=triggers)
    run = Run(probe="inversion", findings=(Finding(level=Level.NOTE, message="triggers", classes=scores),))
    compared = [one for one in Linf()(corner_net.case(runs=(run,))) if one.statistic == "linf.patch"]
    (one,) = compared
    assert one.target == corner_net.TARGET
    assert one.channels == (corner_net.CHANNEL,)
    assert one.classes.scores.argmax() == corner_net.TARGET


def test_what_has_no_trigger_of_its_own_is_not_compared() -> None:
    assert not [one for one in Linf()(corner_net.case(runs=(corner_net.patch(),))) if one.statistic]
