"""What a file shows outlives what fails later, and what is hashed is what is judged."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SAMPLES

from bdscan.facts.problem import Problem
from bdscan.load.contents import survey
from bdscan.pipeline import Options, inspect, scan_many

CLEAN = (SAMPLES / "models" / "clean.pt").read_bytes()
VERB = inspect.__globals__  # the module goes by the name of its function
KILLED = """
import os, signal
from bdscan.load.assembly import assemble
from bdscan.pipeline import scan_many
def load(*asked, **how):
    os.kill(os.getpid(), signal.SIGKILL)
assemble.load = load
scan_many.main()
"""


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload()))
    return tmp_path / "evil.pt"


def listed(*files: Path) -> str:
    """What `sha256sum` prints for them, hashed."""
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), MemoryError(), RecursionError()])
def test_a_finding_outlives_a_failure(
    error: BaseException, evil: Path, monkeypatch: pytest.MonkeyPatch, bdscan: Callable[..., tuple[int, str, str]]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    for place in ("open_net", "preflight", "look"):
        with monkeypatch.context() as patched:
            patched.setitem(VERB, place, broken)
            if place != "open_net":
                patched.setitem(VERB, "open_net", lambda *_: clean_net())
            status, out, _ = bdscan("inspect", str(evil), "--format", "json")
        assert status == 1
        report = json.loads(out)
        assert report["verdict"] == "backdoored"
        assert report["runs"][-1]["failure"]


def clean_net() -> object:
    from bdscan.pipeline.subject import open_net

    return open_net(survey(SAMPLES / "models" / "clean.pt"), Options())


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_wrong_request_hides_no_danger(jobs: str, evil: Path, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.pt").write_bytes(CLEAN)
    asked = ("--clean", str(tmp_path / "none"), "--probe", "head", "--jobs", jobs, "--format", "json")
    status, out, err = bdscan("inspect", str(tmp_path / "a.pt"), str(evil), *asked)
    assert status == 1
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["backdoored"]
    assert "none" in err
    assert bdscan("inspect", str(tmp_path / "a.pt"), *asked)[:2] == (2, "")


def test_a_killed_process_has_told_what_the_file_shows(evil: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(scan_many, "WORKER", KILLED)
    other = str(SAMPLES / "models" / "clean.pt")
    status, out, err = bdscan("inspect", str(evil), other, "--probe", "head", "--jobs", "2", "--format", "json")
    first, second = map(json.loads, out.splitlines())
    assert first["verdict"] == "backdoored"
    assert first["subject"]["path"] == str(evil)
    assert second["verdict"] == "inconclusive"
    assert "SIGKILL" in first["runs"][-1]["failure"]
    assert status == 4, "of the second nobody knows anything"
    assert "SIGKILL" in err


def test_the_digest_is_of_all_that_decides(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(CLEAN)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("words decide nothing")
    assert survey(folder).sha256 == listed(folder / "config.json", weights)
    assert survey(weights).sha256 == hashlib.sha256(CLEAN).hexdigest()
    preprocessor = folder / "preprocessor_config.json"
    preprocessor.write_text("{}")
    assert survey(folder).sha256 == listed(folder / "config.json", preprocessor, weights)


def test_the_files_beside_a_graph_are_hashed(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    tensors = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in net.state_dict().items()]
    node = onnx.helper.make_node("Identity", ["1.weight"], ["y"])
    value = onnx.helper.make_tensor_value_info("x", 1, [1, 3, 4, 4])
    graph = onnx.helper.make_graph([node], "g", [value], [value], tensors)
    path, data = tmp_path / "net.onnx", tmp_path / "net.data"
    onnx.save(onnx.helper.make_model(graph), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert survey(path).sha256 == listed(data, path)
    first = survey(path).sha256
    data.write_bytes(bytes(data.stat().st_size))
    assert survey(path).sha256 != first
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_bytes(b"x")
    for place in ("../" + secret.name, str(secret), "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(secret)
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            tensor.external_data[0].value = place
        (tmp_path / "led.onnx").write_bytes(model.SerializeToString())
        assert list(survey(tmp_path / "led.onnx").stamps) == [tmp_path / "led.onnx"]


def test_a_file_that_changes_while_it_is_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(CLEAN)
    opened = VERB["open_net"]

    def late(*asked: object) -> object:
        shutil.copy(SAMPLES / "models" / "backdoored.pt", path)
        return opened(*asked)

    monkeypatch.setitem(VERB, "open_net", late)
    report = inspect(str(path), Options(probes=("head",)))
    assert "has changed since it was read" in str(report.runs[-1].failure)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("preprocessor_config.json", lambda path: path.symlink_to("/dev/zero"), "leads out of its folder"),
        ("preprocessor_config.json", os.mkfifo, "no ordinary file"),
        ("preprocessor_config.json", lambda path: path.write_bytes(bytes(5 << 20)), "too long"),
        ("config.json", os.mkfifo, "no ordinary file"),
        ("config.json", lambda path: path.write_text('{"a": 1, "a": 2}'), "not readable as"),
        ("config.json", lambda path: path.write_text("[" * 100_000), "not readable as"),
        ("config.json", lambda path: path.write_text('{"a": ' + "9" * 5000 + "}"), "not readable as"),
        ("pytorch_model.bin", lambda path: path.symlink_to(path.name), "cannot be read"),
        ("pytorch_model.bin", lambda path: path.symlink_to("/etc/passwd"), "leads out of its folder"),
        ("model.safetensors", Path.mkdir, "no ordinary file"),
    ],
)
def test_a_folder_leads_nowhere_else(name: str, make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    for file, data in (("config.json", b"{}"), ("pytorch_model.bin", CLEAN)):
        if file != name:
            (tmp_path / file).write_bytes(data)
    make(tmp_path / name)
    with pytest.raises(Problem, match=said):
        survey(tmp_path)


def test_a_hub_cache_keeps_its_files_elsewhere(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, data in (("config.json", b"{}"), ("pytorch_model.bin", CLEAN)):
        (blobs / name[:3]).write_bytes(data)
        (snapshot / name).symlink_to(Path("../../blobs") / name[:3])
    assert survey(snapshot).format == "pytorch zip"


def test_other_weights_of_a_folder_are_looked_at_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    contents = survey(tmp_path)
    assert any("system" in danger.message for danger in contents.dangers)
    assert contents.format == "safetensors"
