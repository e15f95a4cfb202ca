"""Training: what is isolated, what is left, what an interruption costs, and what is said of data that will not do."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import CLASSES, SIDE, TARGET, drawn, poisoned, stamped, written

from bdscan.facts.evidence import Array
from bdscan.facts.problem import Problem
from bdscan.load.arch.fresh import fresh
from bdscan.method import registry
from bdscan.method.registry import given
from bdscan.pipeline import TrainOptions, train
from bdscan.pipeline.train import UNFINISHED
from bdscan.report import Report
from bdscan.report.json import document

SETTINGS = ["plain.epochs=8", "abl.epochs=8", "abl.watch=8", "plain.batch=32", "abl.batch=32"]


def taught(
    folder: Path,
    data: tuple[Array, Array],
    name: str = "abl",
    *settings: str,
    resume: bool = False,
    preset: str | None = None,
    show: Callable[[str, int, int, str], None] = lambda *said: None,
) -> Report:
    folder.mkdir(exist_ok=True)
    spec, arch = written(folder, *data)
    options = TrainOptions(
        method=name,
        output=folder / "model.safetensors",
        suspects=folder / "suspects.csv" if name == "abl" else None,
        arch=arch,
        augment="none",
        probes=("head",),
        settings=given([*SETTINGS, *settings]),
        resume=resume,
        preset=preset,
        show=show,
    )
    return train(spec, options)


def answers(folder: Path, images: Array) -> Array:
    """Of the net in the folder, as a stranger would load it."""
    from safetensors.torch import load_file

    net = fresh(f"{folder / 'net.py'}:net", CLASSES, (3, SIDE, SIDE)).eval()
    net.load_state_dict(load_file(folder / "model.safetensors"))
    told = json.loads((folder / "norm.json").read_text())
    mean, std = (torch.tensor(figures).view(1, -1, 1, 1) for figures in told)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        found: Array = net((pixels - mean) / std).argmax(1).numpy()
    return found


def measured(folder: Path, report: Report) -> tuple[float, float]:
    """Accuracy and attack success on images of its own."""
    from bdscan.load.assembly.normalize import parse

    norm = parse(str(report.subject.normalize), 3)
    (folder / "norm.json").write_text(json.dumps([norm.mean, norm.std]))
    images, labels = drawn(300, seed=99)
    others = labels != TARGET
    right = float((answers(folder, images) == labels).mean())
    return right, float((answers(folder, stamped(images[others])) == TARGET).mean())


def suspects(folder: Path) -> list[dict[str, str]]:
    with (folder / "suspects.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def places(rows: list[dict[str, str]]) -> list[int]:
    return [int(row["file"].rpartition("[")[2].rstrip("]")) for row in rows]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, Array]:
    images, labels, marked = poisoned(900, 0.1)
    folder = tmp_path_factory.mktemp("bad")
    return folder, taught(folder, (images, labels)), marked


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("good")
    return folder, taught(folder, drawn(900, seed=3))


def test_plain_learns_the_backdoor_and_abl_does_not(tmp_path: Path, bad: tuple[Path, Report, Array]) -> None:
    folder, report, _ = bad
    images, labels, _ = poisoned(900, 0.1)
    plain = measured(tmp_path, taught(tmp_path, (images, labels), "plain"))
    abl = measured(folder, report)
    assert plain[0] > 0.9
    assert plain[1] > 0.9
    assert abl[0] > plain[0] - 0.05
    assert abl[1] < 0.1


def test_the_isolated_images_are_the_poisoned_ones(bad: tuple[Path, Report, Array]) -> None:
    folder, report, marked = bad
    rows = suspects(folder)
    isolated = marked[places([row for row in rows if row["isolated"] == "yes"])]
    assert len(rows) == len(marked)
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    assert isolated.mean() > 0.9
    assert isolated.sum() > 0.7 * marked.sum()
    isolation = document(report)["training"]["isolation"]
    assert isolation["target"] == TARGET
    assert isolation["p_value"] <= isolation["threshold"]
    assert "stripe-2" in isolation["message"]


def test_on_clean_data_nothing_is_accused_and_the_net_is_that_of_plain(
    tmp_path: Path, good: tuple[Path, Report]
) -> None:
    folder, report = good
    taught(tmp_path, drawn(900, seed=3), "plain")
    isolation = document(report)["training"]["isolation"]
    assert isolation["isolated"] == 0
    assert "nothing stands out" in isolation["message"]
    assert {row["isolated"] for row in suspects(folder)} == {"no"}
    assert tensors(folder) == tensors(tmp_path)


def tensors(folder: Path) -> bytes:
    """The file behind its header, which names the method."""
    held = (folder / "model.safetensors").read_bytes()
    return held[8 + int.from_bytes(held[:8], "little") :]


@pytest.mark.parametrize("stage", ["watch", "learn"])
def test_stopped_and_resumed_it_is_the_same_to_the_byte(stage: str, tmp_path: Path, good: tuple[Path, Report]) -> None:
    def interrupt(name: str, done: int, total: int, what: str) -> None:
        if what.startswith(stage) and done == total // 2 + 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Problem, match="stopped by the user; the training so far is kept") as stopped:
        taught(tmp_path, drawn(900, seed=3), show=interrupt)
    assert stopped.value.status == 3
    left = {each.name for each in tmp_path.iterdir()} - {"data.npz", "net.py"}
    assert left == {f"model.safetensors{UNFINISHED}"}
    seen: list[int] = []
    taught(tmp_path, drawn(900, seed=3), resume=True, show=lambda _, done, total, what: seen.append(done))
    assert (tmp_path / "model.safetensors").read_bytes() == (good[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "suspects.csv").read_bytes() != b""
    assert seen[0] > 1, "what was done is not done again"
    assert not (tmp_path / f"model.safetensors{UNFINISHED}").exists()


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses say nothing, as those of warps and blends do."""
    monkeypatch.setattr("bdscan.train.abl.mean_log_loss", lambda scored: torch.arange(scored.shape[1]).double())


def test_what_the_losses_do_not_show_the_finished_net_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    images, labels, marked = poisoned(900, 0.1)
    report = taught(tmp_path, (images, labels))
    isolation = document(report)["training"]["isolation"]
    assert isolation["target"] == TARGET
    assert "by two different things" in isolation["message"]
    isolated = marked[places([row for row in suspects(tmp_path) if row["isolated"] == "yes"])]
    assert isolated.mean() > 0.9
    assert isolated.sum() > 0.9 * marked.sum()
    accuracy, success = measured(tmp_path, report)
    assert accuracy > 0.85
    assert success < 0.1
    (tmp_path / "none").mkdir()
    unseen = taught(tmp_path / "none", (images, labels), "abl", "abl.reviews=0")
    assert document(unseen)["training"]["isolation"]["isolated"] == 0
    assert measured(tmp_path / "none", unseen)[1] > 0.9


def test_a_net_whose_features_cannot_be_reviewed_is_told_before_the_training(tmp_path: Path) -> None:
    spec, arch = written(tmp_path, *drawn(300))
    code = (
        (tmp_path / "net.py").read_text().replace("nn.Linear(64, num_classes)", "nn.Linear(64, num_classes + 1), Cut()")
    )
    cut = "class Cut(nn.Module):\n    def forward(self, x):\n        return x[:, 1:]\n\n\n"
    (tmp_path / "net.py").write_text(code.replace("def net", f"{cut}def net"))
    shown: list[str] = []
    options = TrainOptions(
        output=tmp_path / "m.safetensors", arch=arch, show=lambda name, done, total, what: shown.append(what)
    )
    with pytest.raises(Problem, match="no linear layer") as problem:
        train(spec, options)
    assert "abl.reviews=0" in problem.value.hint
    assert not shown


@pytest.mark.parametrize("stage", ["learn", "learn 2"])
def test_stopped_around_the_review_it_is_the_same_to_the_byte(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str, done: int, total: int, what: str) -> None:
        if what.partition(",")[0] == stage and done == (total if stage == "learn" else total // 2):
            os.kill(os.getpid(), signal.SIGINT)

    blind(monkeypatch)
    whole = tmp_path / "whole"
    taught(whole, poisoned(900, 0.1)[:2])
    with pytest.raises(Problem, match="stopped by the user"):
        taught(tmp_path, poisoned(900, 0.1)[:2], show=interrupt)
    taught(tmp_path, poisoned(900, 0.1)[:2], resume=True)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert places(suspects(tmp_path)) == places(suspects(whole))


def test_it_is_resumed_only_for_the_same_work(tmp_path: Path) -> None:
    def interrupt(name: str, done: int, total: int, what: str) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Problem, match="stopped"):
        taught(tmp_path, drawn(300), show=interrupt)
    kept = (tmp_path / f"model.safetensors{UNFINISHED}").read_bytes()
    with pytest.raises(Problem, match="holds a training that was not finished") as problem:
        taught(tmp_path, drawn(300))
    assert problem.value.status == 2
    with pytest.raises(Problem, match="begun with another settings"):
        taught(tmp_path, drawn(300), "abl", "abl.rate=0.05", resume=True)
    with pytest.raises(Problem, match="begun with another data"):
        taught(tmp_path, drawn(300, seed=1), resume=True)
    assert (tmp_path / f"model.safetensors{UNFINISHED}").read_bytes() == kept
    (tmp_path / f"model.safetensors{UNFINISHED}").write_bytes(b"nothing of the kind")
    with pytest.raises(Problem, match="no unfinished training"):
        taught(tmp_path, drawn(300), resume=True)


def test_a_full_disk_costs_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdscan.net import checkpoint

    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(Problem, match="nothing was kept"):
        taught(tmp_path, drawn(300))
    assert {each.name for each in tmp_path.iterdir()} == {"data.npz", "net.py"}


@pytest.mark.parametrize(
    ("labels", "said", "status"),
    [
        (np.zeros(300, dtype=int), "of one class", 3),
        (np.arange(300) % 2 * 900, "only 2 classes have images", 2),
        (np.arange(300) % 2 - 1, "not 300 whole numbers", 2),
    ],
)
def test_labels_that_will_not_do(labels: Array, said: str, status: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=drawn(300)[0], labels=labels)
    with pytest.raises(Problem, match=said) as problem:
        train(str(tmp_path / "data.npz"), TrainOptions(output=tmp_path / "m.safetensors", arch="wrn-10-1"))
    assert problem.value.status == status
    assert not (tmp_path / "m.safetensors").exists()


def folders(root: Path, count: int = 120) -> Path:
    from PIL import Image

    images, labels = drawn(count)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / f"class-{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"class-{label}" / f"{place}.png")
    return root


def test_an_empty_class_folder_is_told_and_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    root = folders(tmp_path / "data")
    (root / "class-9").mkdir()
    (root / "class-0" / "broken.png").write_bytes(b"no picture")
    written(tmp_path, *drawn(6))
    options = TrainOptions(
        method="plain",
        output=tmp_path / "m.safetensors",
        arch=f"{tmp_path / 'net.py'}:net",
        probes=("head",),
        settings=given(["plain.epochs=1", "plain.batch=32"]),
    )
    report = train(str(root), options)
    notes = " ".join(document(report)["training"]["notes"])
    assert "1 of 7 classes have no images" in notes
    assert "`class-9`" in notes
    assert "1 of 121 images could not be decoded" in notes
    assert report.subject.classes == 7
    for place in range(40):
        (root / "class-1" / f"broken-{place}.png").write_bytes(b"no picture")
    with pytest.raises(Problem, match="could not be decoded"):
        train(str(root), options)


def test_the_published_settings_are_there_and_work(tmp_path: Path) -> None:
    published = {"epochs": 80, "watch": 20, "gamma": 0.5, "share": 0.01, "ascent": "local", "reviews": 0, "loss": 1}
    code = {"batch": 128, "rate": 0.1, "decay": 1e-4, "rounds": 5, "pace": 5e-4}
    settings = registry.settings(registry.configure("train", "abl", {}, "paper"))
    assert {key: settings[key] for key in published | code} == published | code
    data = drawn(600)
    report = taught(tmp_path, data, "abl", preset="paper")
    assert measured(tmp_path, report)[0] >= 0.8
    training = document(report)["training"]
    assert training["settings"]["gamma"] == 0.5
    assert training["settings"]["epochs"] == 8, "what is set goes over the preset"


def test_wrong_usage_is_told_before_anything_is_read(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    spec, arch = written(tmp_path, *drawn(120))
    usual = ("train", spec, "--arch", arch, "--output", str(tmp_path / "m.safetensors"))
    for more, said in [
        (("--method", "able"), "did you mean `abl`"),
        (("--set", "abl.gama=1"), "did you mean `gamma`"),
        (("--set", "abl.ascent=up"), "`abl.ascent` is one of"),
        (("--preset", "papers"), "did you mean `paper`"),
        (("--method", "plain", "--preset", "paper"), "`plain` has no such preset"),
        (("--method", "plain", "--suspects", str(tmp_path / "s.csv")), "looks for no suspects"),
        (("--augment", "twist"), "none of auto, none, shift, flip"),
        (("--arch", "wrn-16"), "did you mean `wrn-16-1`"),
        (("--output", str(tmp_path / "m.pt")), "safetensors"),
        (("--output", str(tmp_path / "no" / "m.safetensors")), "there is no folder"),
    ]:
        status, out, err = bdscan(*usual, *more)
        assert (status, out) == (2, ""), err
        assert said in err
    assert {each.name for each in tmp_path.iterdir()} == {"data.npz", "net.py"}


def test_the_command_writes_model_card_suspects_and_reports(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    spec, arch = written(tmp_path, *poisoned(900, 0.1)[:2])
    files = [tmp_path / name for name in ("m.safetensors", "s.csv", "r.html", "r.json", "r.md")]
    settings = [word for each in SETTINGS for word in ("--set", each)]
    reports = [word for file in files[2:] for word in ("--report", str(file))]
    arguments = ("train", spec, "--arch", arch, "-o", str(files[0]), "--suspects", str(files[1]), "--augment", "none")
    status, out, err = bdscan(*arguments, "--probe", "head", *settings, *reports)
    told = json.loads(files[3].read_text())
    assert status == {"clean": 0, "inconclusive": 3}.get(told["verdict"], 1)
    assert out == ""
    assert "Traceback" not in err
    assert told["subject"]["sha256"] == told["training"]["sha256"]
    assert "backdoor-checked" in files[0].with_suffix(".md").read_text()
    page = files[2].read_text()
    assert page.count("<figure") > 10, "a contact sheet"
    assert "<polyline" in page
    assert "isolated" in files[4].read_text()


def test_the_report_is_as_its_schema_says(bad: tuple[Path, Report, Array], good: tuple[Path, Report]) -> None:
    import jsonschema

    import bdscan.report as home

    schema = json.loads(Path(home.__file__).with_name("schema.json").read_text())
    for report in (bad[1], good[1]):
        jsonschema.validate(document(report), schema)
    assert "training" in schema["properties"]


@pytest.mark.parametrize("name", registry.names("train"))
def test_a_trainer_has_a_manual(name: str) -> None:
    manual = registry.manual("train", name)
    for heading in ("What it does", "Why it works", "When it fails", "Reference"):
        assert f"\n{heading}\n" in manual
