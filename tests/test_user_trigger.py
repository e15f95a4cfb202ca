"""Triggers that somebody has: what a file does to pixels, what is refused, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from corner_net import SIDE, TARGET, images, net, stamped
from PIL import Image
from torch import Tensor

from bdscan.facts.evidence import Array
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import plant
from bdscan.plant.badnets import Badnets
from bdscan.plant.blend import Blend
from bdscan.triggers.user_trigger import TriggerEffect, UserTrigger, der, measure, read

SHAPE = (3, SIDE, SIDE)


def pixels(count: int = 4) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def picture(path: Path, array: Array) -> Path:
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def square(side: int, *, alpha: int = 255) -> Array:
    """Red, with alpha."""
    return np.tile(np.array([255, 0, 0, alpha]), (side, side, 1))


def arrays(path: Path, held: Mapping[str, Array]) -> Path:
    with path.open("wb") as file:
        np.savez(file, **held)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("planted", [Badnets(), Blend(alpha=0.2)])
def test_what_a_plant_saves_is_read_back_with_the_same_effect(planted: plant.Plant, tmp_path: Path) -> None:
    plant.save(planted, tmp_path / "trigger.npz", SHAPE)
    known = read(tmp_path / "trigger.npz", SHAPE)
    assert torch.allclose(known.stamp(pixels()), planted(pixels()), atol=1e-3)
    assert not known.notes


def test_a_small_picture_lies_in_the_lower_right_corner(tmp_path: Path) -> None:
    found = read(picture(tmp_path / "red.png", square(3)), SHAPE).stamp(pixels())
    assert (found[:, 0, -3:, -3:] == 1).all()
    assert (found[:, 1:, -3:, -3:] == 0).all()
    found[:, :, -3:, -3:] = pixels()[:, :, -3:, -3:]
    assert torch.equal(found, pixels()), "nothing else is touched"


def test_a_place_is_left_then_top(tmp_path: Path) -> None:
    path = picture(tmp_path / "red.png", square(3))
    found = read(f"{path}@1,5", SHAPE).stamp(pixels())
    changed = (found != pixels()).any(1).any(0)
    assert changed[5:8, 1:4].all()
    assert changed.sum() == 9


def test_alpha_is_the_share(tmp_path: Path) -> None:
    path = picture(tmp_path / "faint.png", square(SIDE, alpha=51))
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert torch.allclose(read(path, SHAPE).stamp(pixels()), 0.8 * pixels() + 0.2 * red, atol=1e-5)
    assert torch.allclose(read(f"{path}@0.5", SHAPE).stamp(pixels()), 0.9 * pixels() + 0.1 * red, atol=1e-5)


def test_a_whole_picture_without_alpha_is_refused_unless_blended(tmp_path: Path) -> None:
    path = picture(tmp_path / "all.png", square(SIDE)[..., :3])
    with pytest.raises(Problem, match="no alpha") as caught:
        read(path, SHAPE)
    assert caught.value.status == USAGE
    assert "@0.2" in caught.value.hint
    assert (read(f"{path}@0.25", SHAPE).stamp(torch.zeros(1, *SHAPE))[0, 0] == 0.25).all()


def test_a_file_may_have_an_at_in_its_name(tmp_path: Path) -> None:
    path = picture(tmp_path / "red@2x.png", square(3))
    assert (read(path, SHAPE).stamp(pixels())[:, 0, -3:, -3:] == 1).all()
    assert (read(f"{path}@0,0", SHAPE).stamp(pixels())[:, 0, :3, :3] == 1).all()


def test_a_trigger_of_another_size_is_scaled_and_says_so(tmp_path: Path) -> None:
    mask, pattern = np.zeros((2 * SIDE, 2 * SIDE)), np.ones((2 * SIDE, 2 * SIDE, 3))
    mask[-4:, -4:] = 1
    known = read(arrays(tmp_path / "large.npz", {"mask": mask, "pattern": pattern}), SHAPE)
    changed = (known.stamp(pixels()) != pixels()).any(1).any(0)
    assert changed[-2:, -2:].all()
    assert changed.sum() == 4, "nearest: no soft edge"
    assert "scaled from 24x24" in known.notes[0]


def test_grey_nets_take_grey_triggers(tmp_path: Path) -> None:
    path = picture(tmp_path / "white.png", np.full((2, 2, 4), 255))
    found = read(path, (1, SIDE, SIDE)).stamp(torch.zeros(2, 1, SIDE, SIDE))
    assert found.sum() == 8


def test_changes_and_flows_and_whole_numbers(tmp_path: Path) -> None:
    change = np.full((SIDE, SIDE, 3), -0.5)
    added = read(arrays(tmp_path / "change.npz", {"change": change}), SHAPE).stamp(pixels())
    assert torch.allclose(added, (pixels() - 0.5).clamp(0, 1))
    flow = np.zeros((SIDE, SIDE, 2))
    still = read(arrays(tmp_path / "flow.npz", {"flow": flow}), SHAPE).stamp(pixels())
    assert torch.allclose(still, pixels(), atol=1e-5)
    whole = {"mask": np.full((SIDE, SIDE, 1), 255, np.uint8), "pattern": np.full((SIDE, SIDE, 3), 51, np.uint8)}
    assert torch.allclose(read(arrays(tmp_path / "whole.npz", whole), SHAPE).stamp(pixels()), torch.tensor(0.2))


FULL = np.zeros((SIDE, SIDE, 3))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"pattern": FULL}, "no trigger"),
        ({"mask": FULL[..., 0], "pattern": FULL, "change": FULL}, "more than one"),
        ({"mask": FULL[..., 0] + 2, "pattern": FULL}, "leaves the range"),
        ({"change": FULL * np.nan}, "leaves the range"),
        ({"mask": FULL[:4, :4, 0], "pattern": FULL}, "differ in size"),
        ({"mask": FULL[..., 0], "pattern": FULL[..., :1]}, "should be H x W x 3"),
        ({"flow": FULL}, "should be H x W x 2"),
        ({"change": np.array(["a"])}, "should be"),
        ({"change": np.array([None])}, "cannot be read"),  # a pickle: never opened
        ({"change": np.zeros((4, 9, 3))}, "cannot be scaled"),
    ],
)
def test_arrays_that_are_no_trigger(held: dict[str, Array], said: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=said) as caught:
        read(arrays(tmp_path / "bad.npz", held), SHAPE)
    assert caught.value.status == USAGE


@pytest.mark.parametrize("given", ["@left", "@0", "@1.5", "@11,11", "@-1,0", "@1,2,3"])
def test_places_and_shares_that_are_none(given: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "red.png", square(3))
    with pytest.raises(Problem) as caught:
        read(f"{path}{given}", SHAPE)
    assert caught.value.status == USAGE


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.npz").write_text("no archive")
    picture(tmp_path / "clear.png", square(3, alpha=0))
    for name in ("text.png", "text.npz", "clear.png", "missing.png"):
        with pytest.raises(Problem, match=name) as caught:
            read(tmp_path / name, SHAPE)
        assert caught.value.status == USAGE


@pytest.mark.parametrize("target", [None, TARGET])
def test_measured_on_a_net_that_obeys(target: int | None) -> None:
    clean = images(60)
    obeyed = measure(net(), UserTrigger("patch", stamped), clean, target)
    assert obeyed == TriggerEffect(target=TARGET, accuracy=1.0, asr=1.0, ra=0.0)


def test_a_trigger_without_effect_leaves_every_answer() -> None:
    obeyed = measure(net(), UserTrigger("nothing", lambda x: x), images(60), TARGET)
    assert obeyed == TriggerEffect(target=TARGET, accuracy=1.0, asr=0.0, ra=1.0)


def test_what_cannot_be_measured() -> None:
    clean, known = images(60), UserTrigger("patch", stamped)
    with pytest.raises(Problem, match="classes 0 to 4"):
        measure(net(), known, clean, 5)
    with pytest.raises(Problem, match="where the trigger leads"):
        measure(net(), known, clean.take((clean.labels == TARGET).nonzero()[:, 0]), TARGET)


def test_der() -> None:
    before = TriggerEffect(target=0, accuracy=0.9, asr=1.0, ra=0.0)
    assert der(before, before) == 0.5
    assert der(before, TriggerEffect(target=0, accuracy=0.9, asr=0.0, ra=0.9)) == 1.0
    assert der(before, TriggerEffect(target=0, accuracy=0.8, asr=0.5, ra=0.4)) == pytest.approx(0.7)
    assert der(before, TriggerEffect(target=0, accuracy=1.0, asr=1.0, ra=0.0)) == 0.5, "accuracy won earns nothing"
