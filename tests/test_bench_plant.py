"""`bdscan bench plant`: nets whose truth is known, in the form that the other commands read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_net import images
from safetensors.torch import load_file
from typer.testing import CliRunner

from bdscan.bench.commands import app
from bdscan.bench.labels import ModelKind, learned_path, read_label, read_labels, trigger_path
from bdscan.bench.plant import plant_net, run_plant
from bdscan.bench.plant.run_plant import SuiteNet, _suite, parse_plant
from bdscan.bench.purify import purify_net
from bdscan.bench.result_json import read_result
from bdscan.bench.tables.grid import markdown
from bdscan.bench.workers import jobs
from bdscan.bench.workers.job import PlantJob
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images
from bdscan.load.assembly.assemble import load
from bdscan.load.contents import survey
from bdscan.method import registry
from bdscan.triggers.user_trigger import read as read_trigger
from bench.draw import main as draw

FACTORY = """
from torch import nn

def block(taken, given):
    return [nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(), nn.MaxPool2d(2)]

def small(num_classes):
    layers = [*block(3, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)]
    return nn.Sequential(*layers)
"""


def put(path: Path, some: ImageSet) -> str:
    np.savez(path, images=some.images.permute(0, 2, 3, 1).numpy(), labels=some.labels.numpy())
    return str(path)


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    """A factory, images to train on and images to measure on."""
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "models").mkdir()
    put(tmp_path / "train.npz", images(600, 1))
    put(tmp_path / "test.npz", images(240, 9))
    return tmp_path


def job(plot: Path, name: str = "one", **told: Any) -> PlantJob:
    facts = {
        "name": name,
        "model": str(plot / "models" / f"{name}.safetensors"),
        "clean": str(plot / "train.npz"),
        "test": str(plot / "test.npz"),
        "arch": f"{plot / 'nets.py'}:small",
        "plant": "badnets",
        "settings": ("size=4",),
        "rate": 0.2,
        "epochs": 6,
        "batch": 32,
        "flip": False,
        "normalize": "none",
        "device": "cpu",
    }
    return PlantJob(**{**facts, **told})


# One net


def test_a_net_lies_beside_its_truth_and_obeys_it(plot: Path) -> None:
    """Read and measured again by what `bench purify` uses."""
    outcome = plant_net.do(job(plot, target=4, command="bdscan bench plant ..."))
    model = plot / "models" / "one.safetensors"
    label = read_label(model)
    assert label.kind is ModelKind.BACKDOORED and label.target == 4 and label.arch == "small" and label.rate == 0.2
    told = json.loads((plot / "models" / "one.json").read_text())
    assert told == outcome["label"] and told["command"] == "bdscan bench plant ..." and told["seed"] == 0
    assert told["course"]["images"] == 600 and told["made_with"]["torch"] == torch.__version__
    source = open_images(str(plot / "test.npz"))
    loaded = load(survey(str(model)), arch=f"{plot / 'nets.py'}:small", normalize="none", images=source, device="cpu")
    fresh = source.load(loaded.suspect.shape)
    known = purify_net.true_trigger(label, None)
    assert known is not None
    found = purify_net.trigger_effect(loaded.suspect, known, fresh)
    assert (round(found.accuracy, 4), round(found.asr, 4)) == (told["acc"], told["asr"])


def test_its_patch_is_what_the_user_can_hand_over(plot: Path) -> None:
    plant_net.do(job(plot, epochs=1))
    held = read_trigger(trigger_path(plot / "models" / "one.safetensors"), (3, 16, 16))
    pixels = images(5, 3).pixels
    plant = registry.configure("plant", "badnets", {"size": "4"})
    assert torch.allclose(held.stamp(pixels), plant(pixels), atol=1e-3)


@pytest.mark.parametrize("name", ["trojannn", "input_aware", "label_consistent"])
def test_what_a_trigger_learned_is_found_again(name: str, plot: Path) -> None:
    """The success in the label is measured anew from the files alone."""
    plant_net.do(job(plot, plant=name, settings=("steps=3",), epochs=3, target=1))
    model = plot / "models" / "one.safetensors"
    label = read_label(model)
    known = purify_net.true_trigger(label, None)
    assert known is not None
    source = open_images(str(plot / "test.npz"))
    loaded = load(survey(str(model)), arch=f"{plot / 'nets.py'}:small", normalize="none", images=source, device="cpu")
    found = purify_net.trigger_effect(loaded.suspect, known, source.load(loaded.suspect.shape))
    assert label.success == pytest.approx(found.asr, abs=1e-4)
    assert learned_path(model).is_file() == (name != "label_consistent")
    assert trigger_path(model).is_file() == (name != "input_aware")


def test_same_seed_same_net(plot: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        plant_net.do(job(plot, name, seed=seed, epochs=1, images=300))
    first, second, third = (load_file(plot / "models" / f"{name}.safetensors") for name in "abc")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)


def test_a_control_is_one(plot: Path) -> None:
    plant_net.do(job(plot, plant=None, settings=(), rate=0.0))
    (label,) = read_labels(plot / "models")
    assert label.kind is ModelKind.CONTROL and label.attack is None and label.success is None
    assert label.accuracy is not None and label.accuracy > 0.8


def test_all_to_all_is_told_as_such(plot: Path) -> None:
    plant_net.do(job(plot, settings=("all_to_all=true",), epochs=1))
    (label,) = read_labels(plot / "models")
    assert label.mode == "a2a" and label.target is None
    known = purify_net.true_trigger(label, None)
    assert known is not None and known.all_to_all


def test_the_target_is_drawn_and_never_the_source(plot: Path) -> None:
    planting = plant_net._planting(job(plot))
    targets = {plant_net._plant(job(plot, seed=seed), planting)[1] for seed in range(12)}
    assert len(targets) > 2
    for source in range(6):
        told = job(plot, plant="tact", settings=(f"source={source}",))
        assert plant_net._plant(told, planting)[1] != source
    with pytest.raises(Problem, match="no class 6") as raised:
        plant_net._plant(job(plot, target=6), planting)
    assert raised.value.status == USAGE


# A suite


def test_drawn_files_share_no_image_and_hold_all_classes(plot: Path) -> None:
    draw(str(plot / "train.npz"), [f"{plot / 'a.npz'}=120", f"{plot / 'b.npz'}=60"])
    with np.load(plot / "a.npz") as first, np.load(plot / "b.npz") as second:
        assert np.bincount(first["labels"]).tolist() == [20] * 6 and np.bincount(second["labels"]).tolist() == [10] * 6
        drawn = [image.tobytes() for held in (first, second) for image in held["images"]]
    assert len(set(drawn)) == 180


def test_every_kind_comes_before_the_next_seed() -> None:
    kinds = [parse_plant("badnets:all_to_all=true,size=4"), parse_plant("tact")]
    found = list(_suite(kinds, None, ["wrn-16-1", "a/nets.py:small"], range(0, 1), range(0, 2)))
    assert [net.name for net in found] == [
        "wrn-16-1-badnets-all_to_all-true-size-4-10-0",
        "wrn-16-1-tact-0.3-0",
        "wrn-16-1-clean-0",
        "small-badnets-all_to_all-true-size-4-10-0",
        "small-tact-0.3-0",
        "small-clean-0",
        "wrn-16-1-clean-1",
        "small-clean-1",
    ]
    assert [net.rate for net in _suite(kinds[:1], [0.1, 0.01], ["x"], range(1), range(0))] == [0.1, 0.01]
    assert [net.rate for net in _suite([parse_plant("tact@0.05")], [0.1, 0.01], ["x"], range(1), range(0))] == [0.05]
    assert SuiteNet("x", None, 0.0, 3).name == "x-clean-3"


@pytest.mark.parametrize(
    "text", ["badnet", "badnets@", "badnets@2", "badnets:sise=4", "badnets:size", "badnets:size=big"]
)
def test_wrong_triggers_are_told_at_once(text: str) -> None:
    with pytest.raises(Problem) as raised:
        parse_plant(text)
    assert raised.value.status == USAGE


def test_a_failed_net_costs_one_net_and_what_is_done_is_not_done_again(plot: Path) -> None:
    bad, good = job(plot, "bad", target=9, epochs=1), job(plot, "good", epochs=1)
    first, second = jobs.run([bad, good], plot / "out")
    assert "no class 9" in first["failure"] and second["failure"] is None
    assert {path.stem for path in (plot / "models").glob("*.safetensors")} == {"good"}
    (grid,) = run_plant.grids([read_result(first), read_result(second)])
    assert "failed: exit status 2" in grid.rows[0][1]
    assert grid.rows[1][1] == "badnets"
    assert jobs.done(bad, plot / "out") is None, "what failed is tried again"
    assert jobs.done(good, plot / "out") == second
    assert jobs.done(replace(good, command="typed otherwise"), plot / "out") == second
    assert jobs.done(replace(good, epochs=2), plot / "out") is None
    Path(good.model).unlink()
    assert jobs.done(good, plot / "out") is None, "a result without its net is none"


def test_the_command(plot: Path) -> None:
    words = ["plant", "--data", str(plot / "train.npz"), "--test", str(plot / "test.npz")]
    words += ["--models", str(plot / "nets"), "--arch", f"{plot / 'nets.py'}:small", "--plant", "badnets:size=4"]
    words += ["--rate", "0.2", "--controls", "1", "--epochs", "6", "--batch", "32", "--no-flip", "--device", "cpu"]
    words += ["--results", str(plot / "out"), "--output", str(plot / "nets.md")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    labels = {label.name: label for label in read_labels(plot / "nets")}
    assert set(labels) == {"small-badnets-size-4-20-0", "small-clean-0"}
    assert labels["small-badnets-size-4-20-0"].kind is ModelKind.BACKDOORED
    written = (plot / "nets.md").read_text()
    assert "| small-clean-0 | none |" in written and "| backdoored |" in written
    document = run_plant.figures(
        [read_result(json.loads(p.read_text())) for p in sorted((plot / "out").glob("*.json"))], "x"
    )
    assert [net["label"]["attack"] for net in document["nets"]] == ["badnets", None]
    assert document["schema"] == "bdscan.bench.plant/1" and markdown(run_plant.grids([])).startswith("## Nets")
