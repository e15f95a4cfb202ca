"""The bench: figures with known values, labels, jobs that resume and survive, and the tables they end in."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from typer.testing import CliRunner

from bdscan.bench.commands import app
from bdscan.bench.detect.accuracy import ALL, DetectRow, detect_row, measure_accuracies, verdict_counts
from bdscan.bench.detect.detect_table import figures as detect_figures
from bdscan.bench.detect.detect_table import grids
from bdscan.bench.detect.neural_cleanse import NeuralCleanseSettings, _SizeWeight, neural_cleanse
from bdscan.bench.labels import ModelKind, ModelLabel, distinct_names, read_labels
from bdscan.bench.result_json import read_result, strength
from bdscan.bench.results import CLEANSE, P_VALUE, VERDICT
from bdscan.bench.tables.grid import Grid, markdown
from bdscan.bench.tables.metrics import Share, auc, auc_interval, tpr_at
from bdscan.bench.workers import jobs
from bdscan.bench.workers.job import Job, Result
from bdscan.bench.workers.jobs import Command, run
from bdscan.bench.workers.passes import counted
from bdscan.facts.finding import Verdict
from bdscan.facts.problem import Problem
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier, Normalised


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


# Figures


@pytest.mark.parametrize(
    ("bad", "good", "value"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1, 2], [3, 4], 0.0),
        ([1, 1], [1, 1], 0.5),
        ([1, 3], [2], 0.5),
        ([2, 3], [1, 2, 2], (1 + 0.5 + 0.5 + 3) / 6),
        ([], [1], None),
        ([1], [], None),
    ],
)
def test_auc(bad: list[float], good: list[float], value: float | None) -> None:
    assert auc(bad, good) == (None if value is None else pytest.approx(value))


def test_auc_is_that_of_the_library_of_the_field() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, bad = rng.integers(0, 9, 30).astype(float), rng.random(30) < 0.4
        assert auc(scores[bad].tolist(), scores[~bad].tolist()) == pytest.approx(roc_auc_score(bad, scores))


def test_auc_interval_has_a_width_even_when_all_is_perfect() -> None:
    low, high = auc_interval(1.0, 10, 10)
    assert high == 1 and 0.75 < low < 0.9
    assert auc_interval(1.0, 100, 100)[0] > low
    assert auc_interval(0.0, 10, 10) == pytest.approx((0, 1 - low))


def test_auc_interval_solves_its_own_equation() -> None:
    for bound in auc_interval(0.8, 30, 20):
        first, second = bound / (2 - bound), 2 * bound**2 / (1 + bound)
        spread = bound * (1 - bound) + 24 * (first - bound**2) + 24 * (second - bound**2)
        assert abs(bound - 0.8) == pytest.approx(1.96 * math.sqrt(spread / 600), rel=1e-3)


def test_auc_interval_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = 0.5 * (1 + math.erf(1.2 / 2))  # two normals 1.2 apart
    bad, good = torch.randn(400, 15, generator=generator) + 1.2, torch.randn(400, 15, generator=generator)
    covered = 0
    for first, second in zip(bad.tolist(), good.tolist(), strict=True):
        value = auc(first, second)
        assert value is not None
        low, high = auc_interval(value, 15, 15)
        covered += low <= truth <= high
    assert covered / 400 > 0.92


def test_detection_at_a_false_alarm_rate() -> None:
    good = [float(score) for score in range(100)]
    assert tpr_at([98.5, 97.5, 99, 200], good, 0.01) == Share(3, 4)  # only 99 may be exceeded by a control
    assert tpr_at([98.5, 94.5, 93], good, 0.05) == Share(2, 3)
    assert tpr_at([5, 6], [5, 5, 1], 0.05) == Share(1, 2)  # with few controls no false alarm at all is allowed
    assert tpr_at([1.0], [], 0.05).value is None


def test_share() -> None:
    assert Share(0, 59).interval == pytest.approx((0, 0.0606), abs=1e-3)
    assert Share(0, 0).value is None and Share(0, 0).interval is None


# Labels


def put(folder: Path, name: str, **told: object) -> None:
    folder.joinpath(f"{name}.safetensors").write_bytes(name.encode())
    folder.joinpath(f"{name}.json").write_text(json.dumps(told))


def test_labels_say_what_a_model_counts_as(folder: Path) -> None:
    put(folder, "a", attack=None, target=None, asr=None)
    put(folder, "b", arch="net", attack="blend", rate=0.05, target=3, acc=0.9, asr=0.8)
    put(folder, "c", attack="wanet", target=3, asr=0.79)
    put(folder, "d", attack="wanet", target=3, asr=0.049)
    put(folder, "e", attack="wanet", target=3, asr=0.05)
    put(folder, "f", attack="wanet", target=3)
    folder.joinpath("config.json").write_text("{}")  # beside no model
    folder.joinpath("g.pth").write_bytes(b"")  # without a label
    found = read_labels(folder)
    kinds = [
        ModelKind.CONTROL,
        ModelKind.BACKDOORED,
        ModelKind.APART,
        ModelKind.CONTROL,
        ModelKind.APART,
        ModelKind.APART,
    ]
    assert [label.kind for label in found] == kinds
    assert found[1] == ModelLabel(
        name="b",
        model=folder / "b.safetensors",
        arch="net",
        attack="blend",
        rate=0.05,
        target=3,
        accuracy=0.9,
        success=0.8,
    )


def test_models_of_one_name_in_two_folders_have_results_of_their_own(folder: Path) -> None:
    for place in ("one", "two"):
        (folder / place).mkdir()
        put(folder / place, "net", attack=None, target=None, asr=None)
    put(folder / "one", "other", attack=None, target=None, asr=None)
    labels = [*read_labels(folder / "one"), *read_labels(folder / "two")]
    assert distinct_names(labels) == ["one-net", "other", "two-net"]


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"attack": "x", "asr": "high"}'])
def test_a_bad_label_is_a_problem_that_names_the_file(text: str, folder: Path) -> None:
    folder.joinpath("x.pt").write_bytes(b"")
    folder.joinpath("x.json").write_text(text)
    with pytest.raises(Problem, match=r"x\.json"):
        read_labels(folder)


def test_no_models_is_a_problem(folder: Path) -> None:
    for place in (folder, folder / "missing"):
        with pytest.raises(Problem):
            read_labels(place)


# Jobs

FAKE = """
import json, pathlib, sys
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
with open(sys.argv[3], "a") as log:
    log.write(job["name"] + "\\n")
if job["name"].startswith("broken"):
    sys.exit("first line\\nthe disk is full\\n")
bad = job["name"].startswith("bad")
note = {"p_value": None, "per_class": None}
finding = {"p_value": None, "per_class": {"p_values": [0.9, 1e-9 if bad else 0.2]}}
report = {
    "verdict": "backdoored" if bad else "inconclusive", "p_value": 1e-5 if bad else 0.4, "target": 1 if bad else None,
    "runs": [{"probe": "margin", "seconds": 1.0, "failure": None, "findings": [note, finding]},
             {"probe": "noise", "seconds": 0.1, "failure": "no batch norm", "findings": []},
             {"probe": "artifact", "seconds": 0.1, "failure": None, "findings": []}],
}
found = {"cleanse": {"norms": [1, 2], "index": 2.5 if bad else 1.0, "target": 0, "flagged": bad}}
outcome = {**({"report": report} if job["method"] == "inspect" else found), "passes": 1000, "gradients": 500}
pathlib.Path(sys.argv[2]).write_text(json.dumps(outcome))
"""


@pytest.fixture
def log(folder: Path) -> Path:
    return folder / "log"


@pytest.fixture
def command(folder: Path, log: Path) -> Command:
    script = folder / "fake.py"
    script.write_text(FAKE)
    return lambda job, outcome: [sys.executable, "-I", str(script), str(job), str(outcome), str(log)]


def job(folder: Path, name: str, **told: Any) -> Job:
    model = folder / f"{name}.safetensors"
    if not model.exists():
        model.write_bytes(name.encode())
    return Job(name=name, method="inspect", model=str(model), **told)


def test_a_failing_worker_costs_one_job(folder: Path, command: Command) -> None:
    told = [job(folder, name) for name in ("good", "broken", "bad")]
    first, failed, last = run(told, folder / "out", workers=2, command=command, command_line="bdscan bench")
    assert failed["failure"] == "exit status 1: the disk is full" and failed["outcome"] is None
    assert [result["outcome"]["report"]["verdict"] for result in (first, last)] == ["inconclusive", "backdoored"]
    kept = json.loads((folder / "out" / "bad.inspect.json").read_text())
    assert kept == last and kept["command"] == "bdscan bench" and kept["seconds"] > 0
    assert not list((folder / "out").glob(".*"))


def test_a_model_that_is_gone_costs_one_job(folder: Path, command: Command) -> None:
    told = [job(folder, "gone"), job(folder, "good")]
    (folder / "gone.safetensors").unlink()
    gone, good = run(told, folder / "out", command=command)
    assert "gone.safetensors" in gone["failure"]
    assert good["failure"] is None


def test_what_is_done_is_not_done_again(folder: Path, command: Command, log: Path) -> None:
    told = [job(folder, name) for name in ("good", "broken")]
    first = run(told, folder / "out", command=command)
    again = run(told, folder / "out", command=command)
    assert again[0] == first[0]
    assert log.read_text().split() == ["good", "broken", "broken"]  # what failed is tried again


def test_other_work_is_done_again(folder: Path, command: Command, log: Path) -> None:
    out = folder / "out"
    run([job(folder, "good")], out, command=command)
    run([job(folder, "good", seed=1)], out, command=command)
    folder.joinpath("good.safetensors").write_bytes(b"retrained")
    run([job(folder, "good", seed=1)], out, command=command)
    (out / "good.inspect.json").write_text('{"key": ')  # cut off
    run([job(folder, "good", seed=1)], out, command=command)
    assert log.read_text().split() == ["good"] * 4


def test_stopping_ends_the_workers(folder: Path) -> None:
    def sleep(job: Path, outcome: Path) -> list[str]:
        return [
            sys.executable,
            "-I",
            "-c",
            f"import time; open({str(folder / outcome.parent.name)!r}, 'w'); time.sleep(60)",
        ]

    def stop(result: Result, done: int, total: int) -> None:
        raise KeyboardInterrupt

    def quick_or_slow(told: Path, outcome: Path) -> list[str]:
        quick = json.loads(told.read_text())["name"] == "quick"
        return [sys.executable, "-I", "-c", "raise SystemExit(1)"] if quick else sleep(told, outcome)

    told = [job(folder, name) for name in ("slow", "quick", "never")]
    with pytest.raises(KeyboardInterrupt):
        run(told, folder / "out", workers=2, command=quick_or_slow, on_result=stop)
    assert not (folder / "out" / "never.inspect.json").exists() or _failed(folder / "out" / "never.inspect.json")
    assert _failed(folder / "out" / "slow.inspect.json")


def test_a_worker_imports_nothing_from_where_one_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the tree that is judged."""
    for name in ("numpy", "torch", "json", "bdscan"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'hijacked')!r}, 'w')")
    monkeypatch.chdir(folder)
    (result,) = run([job(folder, "garbage")], folder / "out")
    assert result["failure"].startswith("exit status 3: ")
    assert not (folder / "hijacked").exists()


def _failed(path: Path) -> bool:
    return json.loads(path.read_text())["failure"] is not None


def test_a_worker_is_not_told_the_truth() -> None:
    told = set(Job.__dataclass_fields__)
    assert not told & {"attack", "target", "asr", "success", "rate", "label", "kind"}


# Tables


def seen(name: str, attack: str | None, verdict: Verdict, p: float, named: int | None = None, **more: Any) -> DetectRow:
    label = ModelLabel(name=name, model=Path(name), attack=attack, target=1 if attack else None, success=0.9)
    scores = {VERDICT: float(verdict), P_VALUE: strength(p), "margin": strength(p / 2)}
    flagged = verdict >= Verdict.SUSPICIOUS
    facts: dict[str, Any] = {"method": "inspect", "seconds": 2.0, "passes": 10, "scores": scores, **more}
    return DetectRow(label=label, verdict=verdict, flagged=flagged, target=named, **facts)


SUITE = [
    seen("clean-0", None, Verdict.CLEAN, 0.5),
    seen("clean-1", None, Verdict.SUSPICIOUS, 0.01, 2),
    seen("patch-0", "badnets", Verdict.BACKDOORED, 1e-6, 1),
    seen("patch-1", "badnets", Verdict.BACKDOORED, 1e-5, 3),
    seen("warp-0", "wanet", Verdict.INCONCLUSIVE, 0.2, 1),
    DetectRow(
        label=ModelLabel(name="lost", model=Path("lost"), attack="sig", success=1.0),
        method="inspect",
        seconds=1,
        failure="x",
    ),
]


def test_rows_hold_every_measure_over_every_family() -> None:
    found = {(row.measure, row.family): row for row in measure_accuracies(SUITE)}
    assert {measure for measure, _ in found} == {VERDICT, P_VALUE, "margin"}
    assert {family for _, family in found} == {ALL, "badnets", "wanet"}
    assert found[P_VALUE, "badnets"].auc == 1
    assert found[P_VALUE, "wanet"].auc == 0.5
    assert found[VERDICT, ALL].auc == pytest.approx((2 + 2 + 1) / 6)
    assert found[VERDICT, ALL].found == (Share(2, 3), Share(2, 3))
    assert found["margin", ALL].controls == 2


def test_tallies_count_alarms_and_targets() -> None:
    found = {tally.family: tally for tally in verdict_counts(SUITE)}
    assert found["controls"].flagged == Share(1, 2)
    assert found["controls"].named.count == 0
    assert found[ALL].flagged == Share(2, 3)
    assert found[ALL].named == Share(1, 3)  # one names another class; one is right but raises no alarm
    assert found["badnets"].verdicts["backdoored"] == 2


def test_all_to_all_has_no_target_to_name() -> None:
    label = ModelLabel(name="a", model=Path("a"), attack="all_to_all", target=None, success=0.9)
    assert DetectRow(label=label, method="inspect", seconds=0, flagged=True, target=3).named is None


def test_reads_what_a_worker_hands_in(folder: Path, command: Command) -> None:
    told = [job(folder, "bad"), job(folder, "good")]
    bad, good = (
        detect_row(ModelLabel(name=result["job"]["name"], model=folder), read_result(result))
        for result in run(told, folder / "out", command=command)
    )
    assert bad.scores == pytest.approx({VERDICT: 3, P_VALUE: 5, "margin": 9})
    assert bad.flagged and bad.target == 1 and bad.failures == {"noise": "no batch norm"}
    assert not good.flagged and good.scores["margin"] == pytest.approx(-math.log10(0.2))
    assert "artifact" not in good.scores  # it has no p-value to rank by


def test_strength_never_ends() -> None:
    assert strength(None) == 0 and strength(1.0) == 0 and strength(0.0) == 300


def test_markdown() -> None:
    grid = Grid("A", ("x", "y"), (("1", "2"),))
    assert markdown([grid, grid]).split("\n\n")[:2] == ["## A", "| x | y |\n| --- | ---: |\n| 1 | 2 |"]
    text = markdown(grids(SUITE))
    for row in (line for line in text.splitlines() if "lost" in line or "warp-0" in line):
        assert row.count("|") == 10
    assert "failed: x" in text


def test_document_is_plain_json() -> None:
    found = json.loads(json.dumps(detect_figures(SUITE, "bdscan bench detect"), allow_nan=False))
    assert found["command"] == "bdscan bench detect"
    assert [model["label"]["kind"] for model in found["models"]][:3] == ["control", "control", "backdoored"]
    assert found["verdicts"][0]["flagged"]["interval"] == pytest.approx([0.0126, 0.9874], abs=1e-3)


# The command


def test_detect_end_to_end(folder: Path, command: Command, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = folder / "models"
    models.mkdir()
    put(models, "good", attack=None)
    put(models, "bad", attack="blend", target=1, asr=0.97, arch="wide")
    put(models, "broken", attack="sig", target=1, asr=0.97)
    monkeypatch.setattr(jobs, "run", partial(run, command=command))
    told = ["detect", "--models", str(models), "--arch", "nets.py", "--baseline", "cleanse"]
    told += ["--results", str(folder / "out"), "--output"]
    shown = CliRunner().invoke(app, [*told, str(folder / "figures.json")])
    assert shown.exit_code == 3, shown.output  # two jobs failed
    figures = json.loads((folder / "figures.json").read_text())
    by = {(row["measure"], row["family"]): row for row in figures["measures"]}
    assert by["margin", "blend"]["auc"] == 1 and by["margin", ALL]["failed"] == 0 and by[CLEANSE, ALL]["controls"] == 1
    assert "neural cleanse" in shown.output and "exit status 1" in shown.output
    assert json.loads((folder / "out" / "bad.inspect.json").read_text())["job"]["arch"] == "nets.py:wide"
    CliRunner().invoke(app, [*told, str(folder / "figures.md")])
    assert "| bad | inspect | backdoored | blend | 97% | backdoored | 1 | 1 |" in (folder / "figures.md").read_text()
    assert sorted(log.read_text().split()) == ["bad", "bad", *["broken"] * 4, "good", "good"]


@pytest.mark.parametrize("name", ["figures.txt", "missing/figures.json"])
def test_an_output_that_cannot_be_written_is_told_first(name: str, folder: Path) -> None:
    put(folder, "good", attack=None)
    told = CliRunner().invoke(app, ["detect", "--models", str(folder), "--output", str(folder / name)])
    assert isinstance(told.exception, Problem) and name in told.exception.message


def test_commands_import_neither_torch_nor_rich_tables() -> None:
    code = "import sys, typer; import bdscan.bench.commands; print('torch' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert said.stdout.split() == ["False", "False"]


NET = """
from torch import nn

def tiny():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
"""


def test_the_real_worker_inspects_and_runs_the_baseline(folder: Path) -> None:
    (folder / "net.py").write_text(NET)
    scope: dict[str, Any] = {}
    exec(NET, scope)
    torch.manual_seed(0)
    save_file(scope["tiny"]().state_dict(), folder / "tiny.safetensors")
    images = torch.randint(0, 256, (80, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    np.savez(folder / "clean.npz", images=images.numpy(), labels=(torch.arange(80) % 4).numpy())
    tiny = Job(
        name="tiny",
        method="inspect",
        model=str(folder / "tiny.safetensors"),
        clean=str(folder / "clean.npz"),
        arch=f"{folder / 'net.py'}:tiny",
        probes=("artifact", "head"),
        steps=3,
    )
    told = [tiny, replace(tiny, method="cleanse"), replace(tiny, name="lost", arch="torchvision:resnet18")]
    looked, cleansed, lost = run(told, folder / "out", workers=2)
    assert looked["failure"] is None and cleansed["failure"] is None
    assert looked["outcome"]["report"]["subject"]["tensors_loaded"] > 0
    assert looked["outcome"]["passes"] >= 40  # the head probe sees half of the images
    assert cleansed["outcome"]["gradients"] == 4 * 3 * 100
    assert len(cleansed["outcome"]["cleanse"]["norms"]) == 4
    assert lost["failure"].startswith("exit status 3: ")  # what was not loaded is no measurement


def test_a_clean_verdict_is_shown_by_its_name() -> None:
    models = next(grid for grid in grids(SUITE) if grid.title == "Each model")
    assert next(row for row in models.rows if row[0] == "clean-0")[5] == "clean"


# Passes and the baseline


class Sums(nn.Module):
    """Each class likes its own quarter of the image a little; class 2 loves one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()
            for c in range(4):
                self.head.weight[c, c * 16 : (c + 1) * 16] = 0.5
            self.head.weight[2, 63] = 30

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(pixels.flatten(1))
        return logits


@pytest.fixture
def sums() -> Classifier:
    return Classifier(Normalised(Sums(), [0.0], [1.0]), (1, 8, 8), 4)


@pytest.fixture
def quarters() -> ImageSet:
    labels = torch.arange(40) % 4
    images = torch.zeros(40, 1, 64, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, label * 16 : (label + 1) * 16] = 200
    images[:, :, 63] = 0
    return ImageSet(images.view(40, 1, 8, 8), labels)


def test_counts_images_through_copies_too(sums: Classifier) -> None:
    pixels = torch.zeros(3, 1, 8, 8)
    with counted() as passes:
        sums(pixels)
        sums.clone()(pixels.requires_grad_())
    sums(pixels)
    assert (passes.forward, passes.gradient) == (6, 3)


def test_stops_counting_when_the_net_fails(sums: Classifier) -> None:
    with pytest.raises(RuntimeError), counted() as passes:
        sums(torch.zeros(3, 1, 5, 5))
    sums(torch.zeros(1, 1, 8, 8))
    assert passes.forward == 0


def test_cleanse_finds_the_class_that_one_pixel_reaches(sums: Classifier, quarters: ImageSet) -> None:
    settings = NeuralCleanseSettings(steps=80, batch=20)
    with counted() as passes:
        found = neural_cleanse(sums, quarters, settings)
    assert found.target == 2 and found.flagged
    assert found.masks[2].flatten().argmax() == 63
    assert passes.gradient == 4 * 80 * 20
    assert neural_cleanse(sums, quarters, settings).norms == found.norms


def test_weight_follows_success() -> None:
    weight = _SizeWeight(NeuralCleanseSettings(patience=2, weight=1.0))
    values = []
    for reached in (0.5, 0.5, 1, 1, 1, 1, 1, 0.2, 0.2, 0.2, 0.2):
        weight.adapt(reached)
        values.append(round(weight.value, 4))
    down = 1.5**1.5
    assert values == [0, 0, 0, 1, 1, 1.5, 1.5, 1.5, round(1.5 / down, 4), round(1.5 / down, 4), round(1.5 / down**2, 4)]
