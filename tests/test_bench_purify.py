"""`bdscan bench purify`: the truth comes last, nothing is done twice, and every figure is in a result file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_net import CLASSES, SIDE, TARGET, images, net, stamped
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from bdscan.bench.commands import app
from bdscan.bench.labels import ModelLabel, read_label
from bdscan.bench.purify import purify_net, purify_table
from bdscan.bench.result_json import read_result
from bdscan.bench.results import BeforeAfter
from bdscan.bench.tables.grid import markdown
from bdscan.bench.tables.metrics import Share
from bdscan.bench.workers import jobs
from bdscan.bench.workers.job import PurifyJob
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images
from bdscan.net.classifier import Classifier
from bdscan.pipeline import PurifyOptions
from bdscan.plant.badnets import Badnets

FACTORY = """
from torch import nn

def block(taken, given):
    return [nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(), nn.MaxPool2d(2)]

def small():
    return nn.Sequential(*block(3, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6))
"""
TRIGGERS = """
import torch

def corner(pixels):
    pixels = pixels.clone()
    pixels[:, :, -4:, -4:] = ((torch.arange(4)[:, None] + torch.arange(4)) % 2).to(pixels)
    return pixels

def shrinks(pixels):
    return pixels[:, :, 1:]

def breaks(pixels):
    raise RuntimeError("no such colour")
"""
QUICK = ("inversion.forms=patch", "inversion.relabel=")
IDLE = ("finetune.rate=1e-8", "finetune.epochs=1", "finetune.steps=1")
LABEL = {"arch": "small", "attack": "corner", "rate": 0.1, "target": TARGET, "mode": "dirty", "acc": 0.9, "asr": 1.0}


def put(path: Path, some: ImageSet) -> str:
    np.savez(path, images=some.images.permute(0, 2, 3, 1).numpy(), labels=some.labels.numpy())
    return str(path)


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder with a labelled net, its factory, its trigger, clean images and others."""
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "triggers.py").write_text(TRIGGERS)
    (tmp_path / "models").mkdir()
    save_file(net(backdoored=True).net.net.state_dict(), tmp_path / "models" / "bad.safetensors")
    (tmp_path / "models" / "bad.json").write_text(json.dumps(LABEL))
    put(tmp_path / "clean.npz", images(240, 3))
    put(tmp_path / "test.npz", images(120, 9))
    return tmp_path


def job(ward: Path, purifier: str = "finetune", **told: Any) -> PurifyJob:
    facts = {
        "name": "bad",
        "model": str(ward / "models" / "bad.safetensors"),
        "purifier": purifier,
        "clean": str(ward / "clean.npz"),
        "test": str(ward / "test.npz"),
        "triggers": str(ward / "triggers.py"),
        "arch": f"{ward / 'nets.py'}:small",
        "normalize": "0.4/0.25",
        "probes": ("inversion",),
        "settings": (*QUICK, *IDLE),
    }
    return PurifyJob(**{**facts, **told})


# One job


def test_a_job_measures_the_written_model_with_the_true_trigger(ward: Path) -> None:
    """In a process of its own, as the command does it."""
    kept = ward / "kept"
    kept.mkdir()
    told = job(ward, images=180, keep=str(kept))
    (result,) = jobs.run([told], ward / "out")
    outcome = result["outcome"]
    assert result["failure"] is None and jobs.done(told, ward / "out") == result
    treatment, measured = outcome["report"]["treatment"], outcome["measured"]
    fresh, suspect = images(120, 9), net(backdoored=True)
    others = fresh.labels != TARGET
    with torch.no_grad():
        went = suspect(stamped(fresh.images)[others].float() / 255).argmax(1)
        right = suspect(fresh.pixels).argmax(1) == fresh.labels
    assert measured["trigger"] == "triggers.py:corner" and measured["target"] == TARGET
    assert (measured["on"], measured["images"], measured["seen"], measured["clean"]) == ("test", 120, 0, 180)
    assert measured["asr"]["before"] == pytest.approx(float((went == TARGET).float().mean()))
    assert measured["ra"]["before"] == pytest.approx(float((went == fresh.labels[others]).float().mean()))
    assert measured["accuracy"]["before"] == pytest.approx(float(right.float().mean()))
    won, lost = (measured[k]["before"] - measured[k]["after"] for k in ("asr", "accuracy"))
    assert measured["der"] == pytest.approx((max(0, won) - max(0, lost) + 1) / 2)
    assert measured["asr"]["after"] >= 0.8, "fine-tuning at a rate of nothing cures nothing"
    assert treatment["method"] == "finetune" and treatment["settings"]["rate"] == 1e-8
    assert measured["seconds"]["purify"] == pytest.approx(treatment["seconds"], rel=1e-3)
    assert treatment["output"] == str(kept / "bad.finetune-180.safetensors") and Path(treatment["output"]).is_file()
    assert outcome["passes"] > 0 and "known_trigger" not in treatment
    row = purify_table.purify_row(labelled(), read_result(result))
    assert row.success == (measured["asr"]["before"], measured["asr"]["after"]) and row.chosen == "finetune"


def faked(monkeypatch: pytest.MonkeyPatch, does: Callable[[str, PurifyOptions], Any]) -> None:
    monkeypatch.setattr(purify_net, "purify", does)


def test_the_pipeline_is_not_told_the_truth(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its options nor by what was read before it ran."""
    given: list[PurifyOptions] = []
    read: list[Path] = []

    def look(path: Path) -> ModelLabel:
        read.append(path)
        return read_label(path)

    def stop(model: str, options: PurifyOptions) -> None:
        given.append(options)
        assert not read, "the label was read before the work was done"
        raise Problem("nothing to go by", status=COULD_NOT_TELL)

    monkeypatch.setattr(purify_net, "read_label", look)
    faked(monkeypatch, stop)
    assert purify_net.do(job(ward))["refused"] == "nothing to go by"
    (options,) = given
    assert options.trigger is None and options.target is None
    assert "corner" not in repr(options) and "triggers.py" not in repr(options)
    assert set(asdict(job(ward))) & {"attack", "target", "asr", "success", "rate", "label", "kind", "mode"} == set()
    assert options.settings["finetune"] == {"rate": "1e-8", "epochs": "1", "steps": "1"}
    assert not options.output.parent.exists(), "the cleaned model's folder is gone"


def test_wrong_usage_is_no_result(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: str, options: PurifyOptions) -> None:
        raise Problem("there is no such thing", status=USAGE)

    faked(monkeypatch, wrong)
    with pytest.raises(Problem, match="no such thing"):
        purify_net.do(job(ward))


def test_a_draw_is_balanced_seeded_and_keeps_the_names(ward: Path) -> None:
    some = images(240, 3)
    names = np.array([f"c{i}" for i in range(CLASSES)])
    pictures = some.images.permute(0, 2, 3, 1).numpy()
    np.savez(ward / "clean.npz", images=pictures, labels=some.labels.numpy(), names=names)

    def draw(count: int, seed: int) -> ImageSet:
        (ward / "draw").mkdir(exist_ok=True)
        path = purify_net.draw(job(ward, images=count, seed=seed), ward / "draw")
        return open_images(path).load((3, SIDE, SIDE))

    first, other = draw(60, 0), draw(60, 1)
    assert first.names == tuple(names)
    assert first.labels.bincount().tolist() == [10] * CLASSES
    known = {image.numpy().tobytes(): int(label) for image, label in zip(some.images, some.labels, strict=True)}
    assert [known[image.numpy().tobytes()] for image in first.images] == first.labels.tolist()
    assert torch.equal(draw(60, 0).images, first.images) and not torch.equal(other.images, first.images)
    small = {image.numpy().tobytes() for image in draw(30, 0).images}
    assert small < {image.numpy().tobytes() for image in first.images}, "fewer images are a part of more"
    with pytest.raises(Problem, match="240 images, not 300"):
        draw(300, 0)


def test_images_that_the_method_saw_do_not_count(ward: Path) -> None:
    loaded = purify_net._loaded(job(ward), ward / "models" / "bad.safetensors", str(ward / "clean.npz"))
    fresh, old = images(120, 9), images(240, 3)
    both = ImageSet(torch.cat([fresh.images, old.images]), torch.cat([fresh.labels, old.labels]))
    mixed = job(ward, test=put(ward / "mixed.npz", both))
    kept, seen = purify_net._fresh(mixed, loaded)
    assert (len(kept), seen) == (120, 240)
    assert torch.equal(kept.images, fresh.images)
    with pytest.raises(Problem, match="among the clean"):
        purify_net._fresh(job(ward, test=str(ward / "clean.npz")), loaded)
    held_out, _ = purify_net._fresh(job(ward, test=None), loaded)
    assert len(held_out) == 48  # a fifth


# The truth


class Echo(torch.nn.Module):
    """Sees in an image's first pixel what it should answer."""

    mean = std = torch.zeros(1)

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.one_hot((pixels[:, 0, 0, 0] * 255).round().long(), CLASSES).float()


def labelled(**told: Any) -> ModelLabel:
    facts = {"name": "x", "model": Path("x"), "attack": "corner", "target": TARGET, "success": 1.0}
    return ModelLabel(**{**facts, **told})


@pytest.fixture
def echo() -> tuple[Classifier, ImageSet]:
    labels = torch.arange(60) % CLASSES
    pictures = labels.to(torch.uint8)[:, None, None, None].expand(60, 3, 4, 4).clone()
    return Classifier(Echo(), (3, 4, 4), CLASSES), ImageSet(pictures, labels)  # type: ignore[arg-type]


def told(add: int, **label: Any) -> purify_net.TrueTrigger:
    return purify_net.TrueTrigger("add", lambda pixels: (pixels * 255 + add) % CLASSES / 255, labelled(**label))


def test_all_to_all_wants_the_next_class(echo: tuple[Classifier, ImageSet]) -> None:
    suspect, some = echo
    found = purify_net.trigger_effect(suspect, told(1, mode="a2a", target=None), some)
    assert (found.accuracy, found.asr, found.ra, found.target) == (1, 1, 0, None)
    assert purify_net.trigger_effect(suspect, told(2, mode="a2a"), some).asr == 0
    assert purify_net.trigger_effect(suspect, told(0, mode="a2a"), some).ra == 1


def test_all_to_one_counts_the_other_classes(echo: tuple[Classifier, ImageSet]) -> None:
    suspect, some = echo
    found = purify_net.trigger_effect(suspect, told(1), some)
    assert found.asr == pytest.approx(1 / (CLASSES - 1)) and found.target == TARGET
    with pytest.raises(Problem, match="classes 0 to 5"):
        purify_net.trigger_effect(suspect, told(1, target=6), some)


def test_one_source_counts_that_class_alone(echo: tuple[Classifier, ImageSet]) -> None:
    suspect, some = echo
    assert purify_net.trigger_effect(suspect, told(1, source=TARGET - 1), some).asr == 1
    assert purify_net.trigger_effect(suspect, told(1, source=0), some).asr == 0
    with pytest.raises(Problem, match="made for"):
        purify_net.trigger_effect(suspect, told(1, source=TARGET), some)


def test_the_users_own_function_goes_before_a_plant(ward: Path) -> None:
    file = str(ward / "triggers.py")
    own = purify_net.true_trigger(labelled(), file)
    assert own is not None and own.name == "triggers.py:corner"
    planted = purify_net.true_trigger(labelled(attack="badnets", settings={"size": "2"}), file)
    assert planted is not None and planted.name == "plant badnets"
    pixels = torch.rand(3, 3, 8, 8)
    assert torch.equal(planted(pixels), Badnets(size=2)(pixels))
    one_class = purify_net.true_trigger(labelled(attack="tact"), None)
    assert one_class is not None and one_class.source == 1
    assert purify_net.true_trigger(labelled(attack="unheard_of"), file) is None
    assert purify_net.true_trigger(labelled(attack=None), file) is None
    with pytest.raises(Problem, match="neither"):
        purify_net.true_trigger(labelled(target=None), file)


@pytest.mark.parametrize(("name", "said"), [("shrinks", "shape"), ("breaks", "no such colour")])
def test_a_wrong_function_is_a_problem(name: str, said: str, ward: Path) -> None:
    own = purify_net.true_trigger(labelled(attack=name), str(ward / "triggers.py"))
    assert own is not None
    with pytest.raises(Problem, match=said):
        own(torch.rand(2, 3, 8, 8))


# What makes a job another one


def test_the_same_work_has_the_same_key(ward: Path) -> None:
    one = job(ward)
    assert replace(one, keep="elsewhere").key == one.key
    assert replace(one, purifier="nba").key != one.key
    assert replace(one, images=100).key != one.key
    before = one.key
    (ward / "models" / "bad.json").write_text(json.dumps({**LABEL, "seconds": 3}))
    assert one.key == before
    (ward / "models" / "bad.json").write_text(json.dumps({**LABEL, "target": 1}))
    assert one.key != before
    (ward / "models" / "bad.json").write_text(json.dumps(LABEL))
    (ward / "triggers.py").write_text(TRIGGERS + "\n# put right\n")
    assert one.key != before


# The command

FAKE = """
import json, pathlib, sys
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
with open(sys.argv[3], "a") as log:
    log.write(f"{job['name']}.{job['purifier']}.{job['images']}\\n")
if job["name"] == "broken":
    sys.exit("the disk is full\\n")
refused = "nothing to prune by" if (job["purifier"], job["name"]) == ("prune", "good") else None
told = {"good": (0.92, None, None), "bad": (0.8, 1.0, 0.1), "worse": (0.9, 0.9, 0.5), "half": (0.5, 0.5, 0.4)}
acc, asr, after = told[job["name"]]
acc_after = acc - (0.01 if job["name"] == "bad" else 0.05)
measured = {
    "images": 100, "seconds": {"purify": 2.0, "all": 10.0},
    "accuracy": {"before": acc, "after": acc_after},
    "asr": asr and {"before": asr, "after": after}, "ra": asr and {"before": 0.0, "after": 0.7},
    "der": asr and (asr - after - (acc - acc_after) + 1) / 2,
}
checks = [{"name": "re-tuning", "passed": job["name"] != "worse"}, {"name": "small push", "passed": None}]
verdict = {"before": "clean" if job["name"] == "good" else "backdoored", "after": "clean"}
method = "fst" if job["purifier"] == "auto" else job["purifier"]
report = {"treatment": {"method": method, "verdict": verdict, "checks": checks}}
told = {"refused": refused} if refused else {"refused": None, "report": report, "measured": measured}
if job["keep"] and not refused:
    pathlib.Path(job["keep"], f"{job['name']}.{job['purifier']}.safetensors").touch()
pathlib.Path(sys.argv[2]).write_text(json.dumps(told))
"""


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labelled files that nobody loads, and a worker that makes results up."""
    models = tmp_path / "models"
    models.mkdir()
    for name, asr in (("good", None), ("bad", 1.0), ("worse", 0.9), ("half", 0.5), ("broken", 0.97)):
        (models / f"{name}.safetensors").write_bytes(name.encode())
        attack = None if asr is None else "corner"
        (models / f"{name}.json").write_text(json.dumps({**LABEL, "attack": attack, "asr": asr}))
    put(tmp_path / "clean.npz", images(60, 3))
    (tmp_path / "fake.py").write_text(FAKE)

    def fake(told: Path, outcome: Path) -> list[str]:
        return [sys.executable, "-I", str(tmp_path / "fake.py"), str(told), str(outcome), str(tmp_path / "log")]

    monkeypatch.setattr(jobs, "run", partial(jobs.run, command=fake))
    return tmp_path


def called(hospital: Path, *more: str) -> Any:
    told = ["purify", "--models", str(hospital / "models"), "--clean", str(hospital / "clean.npz")]
    return CliRunner().invoke(app, [*told, "--results", str(hospital / "out"), *more])


def test_the_figures_are_those_of_the_results(hospital: Path) -> None:
    output = hospital / "figures.json"
    shown = called(hospital, "--method", "fst", "--method", "prune", "--jobs", "2", "--output", str(output))
    assert shown.exit_code == 3 and "2 of 10 jobs failed" in shown.output
    figures = json.loads(output.read_text())
    fst, prune = figures["methods"]
    assert (fst["method"], fst["images"], fst["backdoored"], fst["measured"]) == ("fst", None, 2, 2)
    assert fst["success"] == pytest.approx([0.3, 0.5])  # neither the half-backdoored nor the broken one
    assert fst["lost"] == pytest.approx([0.03, 0.05])
    assert fst["der"] == pytest.approx(((1.0 - 0.1 - 0.01 + 1) / 2 + (0.9 - 0.5 - 0.05 + 1) / 2) / 2)
    assert fst["verified"] == {"hits": 2, "count": 2} and fst["deceived"] == {"hits": 1, "count": 2}
    assert fst["lost_on_controls"] == pytest.approx([0.05, 0.05])
    assert (fst["controls"], fst["failed"], fst["refused"], fst["seconds"]) == (1, 1, 0, 10)
    assert (prune["controls"], prune["failed"], prune["refused"]) == (0, 1, 1)
    by = {(row["label"]["name"], row["method"]): row for row in figures["models"]}
    assert by["worse", "fst"]["failed_checks"] == ["re-tuning"]
    assert by["good", "fst"]["success"] is None and by["good", "prune"]["refused"] == "nothing to prune by"
    assert by["broken", "fst"]["failure"] == "exit status 1: the disk is full"
    assert by["half", "fst"]["label"]["kind"] == "apart"


def test_what_is_done_is_not_done_again_and_a_failure_costs_one_job(hospital: Path) -> None:
    told = ("--method", "prune", "--images", "30", "--images", "12", "--output", str(hospital / "table.md"))
    called(hospital, *told)
    first = (hospital / "table.md").read_text()
    called(hospital, *told)
    assert (hospital / "table.md").read_text() == first
    log = (hospital / "log").read_text().split()
    again = {name: log.count(name) for name in log}
    assert {name for name, times in again.items() if times == 2} == {"broken.prune.30", "broken.prune.12"}
    assert len(again) == 10, "a refusal is a result too"
    kept = json.loads((hospital / "out" / "bad.prune-12.purify.json").read_text())
    assert kept["job"]["images"] == 12 and kept["key"] and kept["command"].startswith("bdscan")
    assert "attack" not in json.dumps(kept["job"])
    row = next(line for line in first.splitlines() if line.startswith("| bad |") and "| 12 |" in line)
    assert (
        "| corner 10.0% | prune | 12 | 80.0 | 79.0 | 100.0 | 10.0 | 70.0 | 0.945 | 2 | 10 | backdoored | clean |" in row
    )
    assert "| half | 50.0 |" in first


def test_a_model_to_be_kept_is_made_again_when_it_is_gone(hospital: Path) -> None:
    def times() -> int:
        return (hospital / "log").read_text().split().count("bad.prune.None")

    (hospital / "models" / "broken.json").unlink()
    called(hospital, "--method", "prune")
    kept = ("--method", "prune", "--keep", str(hospital / "kept"))
    called(hospital, *kept)
    called(hospital, *kept)
    called(hospital, "--method", "prune")
    assert times() == 2
    (hospital / "kept" / "bad.prune.safetensors").unlink()
    called(hospital, *kept)
    assert times() == 3
    assert (hospital / "log").read_text().split().count("good.prune.None") == 1, "what was refused left nothing"


def test_all_methods_and_auto_by_default(hospital: Path) -> None:
    for name in ("broken", "worse", "half", "good"):
        (hospital / "models" / f"{name}.json").unlink()
    output = hospital / "table.md"
    assert called(hospital, "--output", str(output)).exit_code == 0
    done = {line.split(".")[1] for line in (hospital / "log").read_text().split()}
    assert done >= {"auto", "finetune", "fst", "nba", "prune", "polarizer"}
    assert "| auto (fst) |" in output.read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "fts"), "did you mean `fst`"),
        (("--set", "fst.alfa=1"), "did you mean `alpha`"),
        (("--set", "fst"), "METHOD.SETTING=VALUE"),
        (("--probe", "marging"), "did you mean `margin`"),
        (("--images", "61"), "60 images, not 61"),
        (("--triggers", "/no/such/file.py"), "no such file"),
        (("--test", "/no/such/images"), "no images"),
        (("--output", "/no/such/folder/table.md"), "folder that does not exist"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_work(more: tuple[str, ...], said: str, hospital: Path) -> None:
    shown = called(hospital, *more)
    assert isinstance(shown.exception, Problem) and shown.exception.status == USAGE
    assert said in shown.exception.message
    assert not (hospital / "log").exists()


def test_a_net_without_its_trigger_counts_for_accuracy_alone() -> None:
    row = purify_table.PurifyRow(
        label=labelled(), method="fst", images=None, accuracy=BeforeAfter(0.9, 0.8), verdict=("backdoored", "clean")
    )
    (found,) = purify_table.summaries([row])
    assert (found.backdoored, found.measured, found.success, found.der) == (1, 0, None, None)
    assert found.lost == pytest.approx((0.1, 0.1)) and found.verified == Share(1, 1)
    assert markdown(purify_table.grids([row])).count("| - |") >= 1
