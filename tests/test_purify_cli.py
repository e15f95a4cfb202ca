"""`bdscan purify` from end to end on a small net: what is written, what is told, what it exits with."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from planted_net import TARGET, images, net, stamped

import bdscan.report
from bdscan.purify.finetune import Finetune

Bdscan = Callable[..., tuple[int, str, str]]
FACTORY = """
from torch import nn

def block(taken, given):
    return [nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(), nn.MaxPool2d(2)]

def small():
    return nn.Sequential(*block(3, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6))
"""
QUICK = ("--probe", "inversion", "--set", "inversion.forms=patch", "--set", "inversion.relabel=")


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder with both nets, their factory and clean images."""
    (tmp_path / "small.py").write_text(FACTORY)
    for backdoored in (True, False):
        weights = {f"module.{k}": v for k, v in net(backdoored=backdoored).net.net.state_dict().items()}
        name = "backdoored" if backdoored else "clean"
        torch.save({"state_dict": weights, "epoch": 8}, tmp_path / f"{name}.pt")
    some = images(400, 3)
    np.savez(tmp_path / "images.npz", images=some.images.permute(0, 2, 3, 1).numpy(), labels=some.labels.numpy())
    return tmp_path


def arguments(ward: Path, name: str = "backdoored", *more: str) -> tuple[str, ...]:
    return (
        "purify",
        str(ward / f"{name}.pt"),
        *("--clean", str(ward / "images.npz")),
        *("--arch", f"{ward / 'small.py'}:small"),
        *("--normalize", "0.4/0.25"),
        *("-o", str(ward / "out.pt")),
        *QUICK,
        *more,
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def told(out: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(out)
    folder = Path(bdscan.report.__file__).parent
    jsonschema.validate(report, json.loads((folder / "schema.json").read_text(encoding="utf-8")))
    return report


def test_the_cleaned_model_is_written_verified_and_told(ward: Path, bdscan: Bdscan) -> None:
    original = sha256(ward / "backdoored.pt")
    status, out, _ = bdscan(*arguments(ward, "backdoored", "--method", "nba", "--format", "json"))
    report = told(out)
    treatment = report["treatment"]
    assert treatment["verdict"]["before"] in ("suspicious", "backdoored")
    assert status == 0, report["reasons"]
    assert treatment["verdict"]["after"] == "clean"
    assert treatment["recovered_trigger_success"]["before"] >= 0.8
    assert treatment["recovered_trigger_success"]["after"] <= 0.2
    assert all(check["passed"] for check in treatment["checks"])
    assert {check["name"] for check in treatment["checks"]} >= {"clean accuracy", "fresh search", "re-tuning"}
    assert sha256(ward / "backdoored.pt") == original
    assert treatment["sha256"] == sha256(ward / "out.pt")
    written = torch.load(ward / "out.pt", weights_only=True)
    assert written["epoch"] == 8
    kept = torch.load(ward / "backdoored.pt", weights_only=True)["state_dict"]
    assert written["state_dict"].keys() == kept.keys()
    assert "nba" in (ward / "out.md").read_text()
    model = net(backdoored=True).clone()
    model.net.net.load_state_dict({k.removeprefix("module."): v for k, v in written["state_dict"].items()})
    fresh = images(300, 9)
    others = fresh.labels != TARGET
    with torch.no_grad():
        went = model(stamped(fresh.images)[others].float() / 255).argmax(1)
    assert float((went == TARGET).float().mean()) <= 0.25


def test_a_cure_that_failed_says_so(ward: Path, bdscan: Bdscan) -> None:
    """Fine-tuning at a rate of nearly nothing changes nothing: the trigger still works."""
    idle = ("--method", "finetune", "--set", "finetune.rate=1e-8", "--set", "finetune.epochs=1")
    status, out, _ = bdscan(*arguments(ward, "backdoored", *idle, "--format", "json"))
    report = told(out)
    assert status == 1
    assert report["verdict"] in ("suspicious", "backdoored")
    failed = [check["name"] for check in report["treatment"]["checks"] if check["passed"] is False]
    assert "recovered trigger" in failed


def test_a_known_trigger_is_measured_and_nothing_else(ward: Path, bdscan: Bdscan) -> None:
    mask, pattern = np.zeros((16, 16), np.float32), np.zeros((16, 16, 3), np.float32)
    mask[-4:, -4:] = 1
    pattern[-4:, -4:] = ((np.arange(4)[:, None] + np.arange(4)) % 2)[..., None]
    larger: dict[str, Any] = {"mask": mask.repeat(2, 0).repeat(2, 1), "pattern": pattern.repeat(2, 0).repeat(2, 1)}
    np.savez(ward / "trigger.npz", **larger)
    common = ("--method", "nba", "--format", "json")
    _, plain, _ = bdscan(*arguments(ward, "backdoored", *common))
    without = sha256(ward / "out.pt")
    (ward / "out.pt").unlink()
    (ward / "out.md").unlink()
    _, out, _ = bdscan(*arguments(ward, "backdoored", *common, "--trigger", str(ward / "trigger.npz")))
    treatment = told(out)["treatment"]
    assert any("was scaled from 32x32" in note for note in treatment["notes"])
    known = treatment["known_trigger"]
    assert known["target"] == TARGET
    assert known["asr"]["before"] >= 0.9
    assert known["asr"]["after"] <= 0.25
    assert known["der"] >= 0.85
    assert sha256(ward / "out.pt") == without, "knowing the trigger changes nothing in the cleaned model"
    assert told(plain)["treatment"].get("known_trigger") is None


def test_auto_tells_what_it_tried(ward: Path, bdscan: Bdscan) -> None:
    status, out, _ = bdscan(*arguments(ward, "backdoored", "--format", "json"))
    treatment = told(out)["treatment"]
    assert status == 0
    assert treatment["tried"][-1]["method"] == treatment["method"] or len(treatment["tried"]) > 1
    assert any(each["passed"] for each in treatment["tried"])


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (("--method", "fts"), 2, "did you mean `fst`"),
        (("--set", "fst.alfa=1"), 2, "did you mean `alpha`"),
        (("--set", "fts.alpha=1"), 2, "no such method"),
        (("--trigger", "/no/such/trigger.png"), 2, "trigger.png"),
        (("--report", "/no/such/folder/r.html"), 2, "folder that does not exist"),
        (("--budget", "0"), 3, "nothing written"),
        (("--normalize", "9/0.001"), 3, "nothing to purify"),
    ],
)
def test_what_cannot_be_done_costs_nothing(
    ward: Path, bdscan: Bdscan, more: tuple[str, ...], status: int, said: str
) -> None:
    before = {path.name for path in ward.iterdir()}
    left, out, err = bdscan(*arguments(ward, "backdoored", *more))
    assert left == status, err
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert {path.name for path in ward.iterdir()} - {"__pycache__"} == before


def test_the_input_is_never_the_output(ward: Path, bdscan: Bdscan) -> None:
    original = sha256(ward / "backdoored.pt")
    status, _, err = bdscan(*arguments(ward), "-o", str(ward / "backdoored.pt"))
    assert status == 2
    assert "Traceback" not in err
    assert sha256(ward / "backdoored.pt") == original


def test_images_of_one_class_are_refused(ward: Path, bdscan: Bdscan) -> None:
    some = images(400, 3)
    one = some.take((some.labels == 0).nonzero()[:, 0])
    np.savez(ward / "images.npz", images=one.images.permute(0, 2, 3, 1).numpy(), labels=one.labels.numpy())
    status, _, err = bdscan(*arguments(ward))
    assert status == 3
    assert "class" in err
    assert not (ward / "out.pt").exists()


def test_ctrl_c_leaves_nothing(ward: Path, bdscan: Bdscan, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Finetune, case: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Finetune, "__call__", interrupted)
    before = {path.name for path in ward.iterdir()}
    status, _, err = bdscan(*arguments(ward, "backdoored", "--method", "finetune"))
    assert status == 3
    assert "stopped" in err
    assert {path.name for path in ward.iterdir()} - {"__pycache__"} == before


@pytest.mark.filterwarnings("ignore")  # torch deprecates TorchScript, but the files are there
def test_a_program_that_takes_rows_and_a_module_in_a_wrapper(tmp_path: Path, bdscan: Bdscan) -> None:
    """From file to file: loaded, treated by a method that looks for maps, written, opened again."""
    some = images(400, 3)
    np.savez(tmp_path / "images.npz", images=some.images.permute(0, 2, 3, 1).numpy(), labels=some.labels.numpy())
    pixels = (some.images.flatten(1).float() / 255 - 0.4) / 0.25
    torch.manual_seed(0)
    rows = torch.nn.Sequential(torch.nn.Linear(768, 24), torch.nn.ReLU(), torch.nn.Linear(24, 6))
    optimizer = torch.optim.Adam(rows.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(rows(pixels), some.labels).backward()
        optimizer.step()
    torch.save({"net": rows, "epoch": 3}, tmp_path / "module.pt")
    torch.jit.save(torch.jit.trace(rows, pixels[:2]), str(tmp_path / "program.pt"))
    for name in ("program", "module"):
        more = ("--method", "nba", "--set", "nba.steps=20", "--set", "nba.search=20", "--set", "inversion.steps=20")
        _, out, err = bdscan(
            *("purify", str(tmp_path / f"{name}.pt"), "--clean", str(tmp_path / "images.npz")),
            *("--normalize", "0.4/0.25", "-o", str(tmp_path / f"{name}_out.pt"), *QUICK, *more, "--format", "json"),
        )
        assert ("is written as a state dict" in err) == (name == "module")
        assert told(out)["treatment"]["output"] == str(tmp_path / f"{name}_out.pt")
    program, again = torch.jit.load(str(tmp_path / "program_out.pt")), copy.deepcopy(rows)
    again.load_state_dict(torch.load(tmp_path / "module_out.pt", weights_only=True))
    torch.testing.assert_close(program(pixels), again(pixels), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(program(pixels), rows(pixels), atol=0.01)
