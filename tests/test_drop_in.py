"""A method is one file: dropped into its room it is listed, configured, run, judged and measured."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_net import images

from bdscan.bench.detect.accuracy import detect_row
from bdscan.bench.detect.calibrate import (
    by_statistic,
    calibrated_families,
    calibrated_probes,
    clean_nets,
    judge_by_others,
    summarise,
)
from bdscan.bench.labels import ModelLabel, read_label
from bdscan.bench.plant import plant_net
from bdscan.bench.plant.run_plant import parse_plant
from bdscan.bench.purify import purify_net
from bdscan.bench.result_json import read_result
from bdscan.bench.results import JobResult
from bdscan.bench.workers.job import Job, PlantJob, PurifyJob
from bdscan.bench.workers.jobs import SCHEMA
from bdscan.facts.finding import Verdict
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.method import registry
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier
from bdscan.pipeline import Options, probing, self_check
from bdscan.pipeline.runner import Runner
from bdscan.report import Report, Subject
from bdscan.report.json import document
from bdscan.verdict.judge import judge

PURIFIER = '''"""A new head, learned from the clean images.

What it does
    Forgets the head, and learns another.
Why it removes a backdoor
    It need not.
When it fails
    Often.
Reference
    None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.method.registry import Presets
from bdscan.net.training_plan import plan_for
from bdscan.purify._fine_tune import fine_tune


@dataclass(frozen=True)
class NewHead(Purifier):
    epochs: int = 1  # as few as there are
    schedule: Literal["cosine", "constant"] = "constant"  # the simpler one

    presets: ClassVar[Presets] = {"paper": {"epochs": 6}}

    def __call__(self, case: PurifyCase) -> Purified:
        cleaned = case.suspect.clone()
        with torch.no_grad():
            cleaned.module(cleaned.head).weight.zero_()
        plan = plan_for(case.suspect, case.clean, self.epochs, 0)
        fine_tune(case, cleaned.net, plan, "a new head", rate=0.02, schedule=self.schedule)
        return Purified(suspect=cleaned, notes=("a new head was learned",))
'''
PROBE = '''"""Compares how far the classes' rows of the last layer reach.

What it measures
    Their lengths.

Why it shows a backdoor
    It need not.

When it misleads
    Often.

Reference
    None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from bdscan.facts.finding import Finding
from bdscan.method.case import NetCase
from bdscan.method.probe import NetProbe, Stage
from bdscan.verdict.comparison import Comparison


@dataclass(frozen=True)
class RowLength(NetProbe):
    threshold: float = 0.01  # as elsewhere

    stage: ClassVar[Stage] = Stage.ACCUSES
    family: ClassVar[str] = "rows"
    statistics: ClassVar[tuple[str, ...]] = ("row_length.norm",)
    quick: ClassVar[bool] = True

    def __call__(self, case: NetCase) -> Iterator[Finding]:
        case.progress(0, 1, "rows")
        lengths = case.suspect.head_weight.norm(dim=1).double().cpu().numpy()
        compared = Comparison.calibrated("row_length.norm", lengths)
        yield compared.finding(f"the longest row is that of {case.suspect.name(compared.target)}", self.threshold)
'''
PLANT = '''"""White columns at the left edge.

What it does
    Paints them.

Why it implants
    They are always there.

What it breaks
    Nothing.

Reference
    None.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bdscan.method.plant import Plant


@dataclass(frozen=True)
class Edge(Plant):
    width: int = 1  # of the columns

    def __call__(self, pixels: Tensor) -> Tensor:
        painted = pixels.clone()
        painted[..., : self.width] = 1
        return painted
'''
FACTORY = """
from torch import nn

def block(taken, given):
    return [nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(), nn.MaxPool2d(2)]

def small():
    return nn.Sequential(*block(3, 16), *block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6))
"""


SOURCES = (("probes", "row_length", PROBE), ("purify", "new_head", PURIFIER), ("plant", "edge", PLANT))


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All three files in rooms that grew by a folder each, for as long as the test runs."""
    for room, name, source in SOURCES:
        package, folder = importlib.import_module(f"bdscan.{room}"), tmp_path / room
        folder.mkdir()
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for room, name in ((room, name) for room, name, _ in SOURCES):
        sys.modules.pop(f"bdscan.{room}.{name}", None)
        vars(importlib.import_module(f"bdscan.{room}")).pop(name, None)


@pytest.mark.usefixtures("methods")
def test_a_dropped_in_method_is_listed_and_configured(bdscan) -> None:  # type: ignore[no-untyped-def]
    _, listed, _ = bdscan("methods")
    assert "new_head         A new head, learned from the clean images." in listed
    assert "edge             White columns at the left edge." in listed
    _, shown, _ = bdscan("methods", "new_head")
    assert "Often." in shown and "the simpler one (cosine | constant)" in shown and "epochs=6" in shown
    purifier = registry.configure("purify", "new_head", {"schedule": "cosine"}, "paper")
    assert registry.settings(purifier) == {"epochs": 6, "schedule": "cosine"}
    with pytest.raises(Problem, match="did you mean `cosine`") as caught:
        registry.configure("purify", "new_head", {"schedule": "cosin"})
    assert caught.value.status == USAGE
    assert parse_plant("edge:width=2").settings == ("width=2",)


@pytest.mark.usefixtures("methods")
def test_a_dropped_in_plant_is_planted_and_a_dropped_in_purifier_measured_by_it(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    (tmp_path / "models").mkdir()
    for name, some in (("train", images(600, 1)), ("test", images(240, 9))):
        np.savez(tmp_path / name, images=some.images.permute(0, 2, 3, 1).numpy(), labels=some.labels.numpy())
    train, model = str(tmp_path / "train.npz"), tmp_path / "models" / "one.safetensors"
    asked: dict[str, str] = {
        "name": "one",
        "model": str(model),
        "clean": train,
        "test": str(tmp_path / "test.npz"),
        "arch": f"{tmp_path / 'nets.py'}:small",
        "normalize": "none",
        "device": "cpu",
    }
    course = {"rate": 0.2, "epochs": 6, "batch": 32, "flip": False, "target": 4}
    planting = PlantJob(**asked, **course, plant="edge", settings=("width=2",))  # type: ignore[arg-type]
    label = plant_net.do(planting)["label"]
    assert (label["attack"], label["target"]) == ("edge", 4) and label["asr"] >= 0.9
    assert read_label(model).attack == "edge"
    settings = ("new_head.epochs=6", "inversion.forms=patch", "inversion.relabel=")
    job = PurifyJob(**asked, purifier="new_head", images=240, probes=("inversion",), settings=settings)  # type: ignore[arg-type]
    outcome = purify_net.do(job)
    treatment, measured = outcome["report"]["treatment"], outcome["measured"]
    assert treatment["method"] == "new_head" and treatment["settings"] == {"epochs": 6, "schedule": "constant"}
    assert "a new head was learned" in treatment["notes"]
    assert treatment["verdict"]["before"] and treatment["verdict"]["after"]
    assert measured["trigger"] == "plant edge" and measured["asr"]["before"] >= 0.9
    assert measured["accuracy"]["after"] >= 0.8


@pytest.mark.usefixtures("methods")
def test_a_dropped_in_probe_is_run_judged_and_self_checked(tiny: Classifier, few: ImageSet) -> None:
    with torch.no_grad():
        tiny.module(tiny.head).weight[3] *= 50  # type: ignore[index,operator]
    options = Options(probes=("row_length", "head"))
    probes = probing.select(options)
    assert [name for name, _ in probes] == ["artifact", "head", "row_length"]
    assert "row_length" in [name for name, _ in probing.select(Options(effort="fast"))]
    case = probing.net_case(tiny, few, (), options)
    (run,) = probing.look(probes[2:], case, Runner(options))
    assert (run.probe, run.family, run.failure) == ("row_length", "rows", None)
    judgement = judge((run,))
    assert (judgement.verdict, judgement.target) == (Verdict.SUSPICIOUS, 3)
    for quick in (True, False):
        assert "row_length" in [name for name, _ in self_check.looking(quick=quick)]
    assert isinstance(case, ImageCase)
    assert self_check.looked(case, "patch", 3)


@pytest.mark.usefixtures("methods")
def test_a_dropped_in_probe_is_calibrated_and_measured(tiny: Classifier, few: ImageSet) -> None:
    assert "row_length" in calibrated_probes()
    results, labels = [], []
    for number in range(4):
        with torch.no_grad():
            tiny.module(tiny.head).weight.mul_(1 + torch.rand(6, 1) / 5)  # type: ignore[operator]
        options = Options(probes=("row_length",))
        case = probing.net_case(tiny, few, (), options)
        runs = probing.look(probing.select(options), case, Runner(options))
        report = Report(subject=Subject(path=f"{number}"), judgement=judge(runs), runs=runs)
        results.append(_result(f"{number}", report))
        labels.append(ModelLabel(name=f"{number}", model=Path(f"{number}"), attack=None))
    nets = clean_nets(results, labels)
    summary = summarise(by_statistic([net.scores for net in nets]))
    assert summary["row_length.norm"]["spread"]["nets"] == 4
    assert calibrated_families()["row_length.norm"] == "rows"
    assert all(each.p_value is not None for each in judge_by_others([net.scores for net in nets]))
    row = detect_row(labels[0], results[0])
    assert row.scores["row_length"] >= 0 and "row_length" in row.probe_seconds


def _result(name: str, report: Report) -> JobResult:
    job = Job(name=name, method="inspect", model=name, clean=None)
    outcome = {"report": document(report), "passes": 0, "gradients": 0, "made_with": {}}
    raw = {"schema": SCHEMA, "key": "", "job": asdict(job), "seconds": 1.0, "failure": None, "outcome": outcome}
    return read_result(raw)
