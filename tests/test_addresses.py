"""What is fetched, within which limit, what is left of it afterwards, and how each way of failing is told."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fsspec
import pytest
from conftest import SAMPLES
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

from bdscan import pipeline
from bdscan.facts.problem import Problem
from bdscan.load.source.addresses import parse, shown
from bdscan.load.source.fetch import local_copy

NET = (SAMPLES / "models" / "clean.pt").read_bytes()
ASKED = ("--probe", "artifact", "--format", "json")


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store of files that lives in memory."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; nothing may be left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def error_of(name: str, most: float = 1e9) -> Problem:
    with pytest.raises(Problem) as told, local_copy(name, most):
        pass
    assert "\n" not in told.value.message
    return told.value


def raising(error: Exception) -> type[MemoryFileSystem]:
    class Failing(MemoryFileSystem):  # type: ignore[misc]
        protocol = "failing"
        cachable = False

        def info(self, path: str, **_: object) -> dict[str, object]:
            raise error

    return Failing


def test_what_is_an_address() -> None:
    assert all(map(parse, ("s3://b/k.pt", "HF://x/y", "https://h/x.pt", "models:/net/3", "models:/net@champion")))
    assert not any(map(parse, ("a.pt", "./s3/x.pt", "C:\\models\\x.pt", "models/net/3", "cifar10:ROOT", "s3:x")))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://me:secret@host/x.pt", "https://host/x.pt"),
        ("https://host/x.pt?X-Amz-Signature=secret", "https://host/x.pt"),
        ("hf://org/repo@main/x.pt", "hf://org/repo@main/x.pt"),
        ("s3://bucket/x.pt?versionId=1", "s3://bucket/x.pt"),
    ],
)
def test_secrets_are_not_told(address: str, told: str) -> None:
    assert shown(address) == told


def test_a_model_is_looked_at_and_gone(store, desk: Path, bdscan, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store.pipe("/models/net.pt", NET)
    seen: list[Path] = []
    inspect = pipeline.inspect

    def watched(path: str, options: object) -> object:
        seen.append(Path(path))
        assert desk in Path(path).parents
        assert Path(path).parent.stat().st_mode & 0o077 == 0, "nobody else can read it"
        return inspect(path, options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "inspect", watched)
    status, out, err = bdscan("inspect", "memory://models/net.pt", *ASKED)
    assert status == 3
    told = json.loads(out)
    assert told["subject"]["path"] == "memory://models/net.pt"
    assert told["subject"]["sha256"] == hashlib.sha256(NET).hexdigest()
    assert [path.name for path in seen] == ["net.pt"]
    assert str(desk) not in out + err


def test_of_a_folder_only_the_model_is_fetched(store) -> None:  # type: ignore[no-untyped-def]
    files = {"config.json": b"{}", "model.safetensors": b"x" * 10, "pytorch_model.bin": b"y" * 99, "README.md": b"z"}
    store.pipe({f"/net/{name}": data for name, data in files.items()})
    told: list[tuple[int, int]] = []
    with local_copy("memory://net", 50, lambda *at: told.append(at)) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert told[-1] == (12, 12)


def test_of_a_split_model_all_files_are_fetched_and_no_others(store) -> None:  # type: ignore[no-untyped-def]
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    names = ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors", "pytorch_model.bin")
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    store.pipe({f"/net/{name}": data for name, data in (files | dict.fromkeys(names, b"x")).items()})
    with local_copy("memory://net") as folder:
        assert sorted(path.name for path in folder.iterdir()) == sorted([*files, *names[:2]])
    store.pipe("/net/model.safetensors.index.json", b'{"weight_map": {"a": "../../evil.safetensors"}}')
    assert "names a file that is none of its folder's" in error_of("memory://net").message


def says(size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is wrong about the size of its files."""
    about = {"name": "/net.pt", "type": "file", "size": size}
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: about)


def test_the_limit_holds_whatever_the_store_says_of_the_size(store, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store.pipe("/net.pt", b"x" * 3_000_000)
    problem = error_of("memory://net.pt", 2e6)
    assert (problem.message, problem.status) == ("`memory://net.pt` is larger than the 2 MB that may be fetched", 3)
    assert "--max-size" in problem.hint

    for size in (None, 10):
        says(size, monkeypatch)
        assert "is larger than the 2 MB" in error_of("memory://net.pt", 2e6).message


def test_a_local_file_has_an_address_too(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(NET)
    with local_copy(f"file://{tmp_path}/net.pt") as path:
        assert path.read_bytes() == NET
        assert path != tmp_path / "net.pt"
    assert (tmp_path / "net.pt").read_bytes() == NET
    with local_copy(str(tmp_path / "net.pt")) as path:
        assert path == tmp_path / "net.pt", "what lies here is not copied"


def test_half_a_file_is_none(store, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store.pipe("/net.pt", b"x" * 40)
    says(100, monkeypatch)
    assert "40 of 100 bytes came" in error_of("memory://net.pt").message


class Status(Exception):
    """As web drivers raise them."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError("x"), "there is no such file"),
        (PermissionError("x"), "access is denied"),
        (Status(403), "access is denied"),
        (Status(401), "it asks for a password"),
        (TimeoutError(), "no answer came in time"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ConnectionError("Cannot connect to failing://b/net.pt?key=secret\nmore"), "Cannot connect to failing://b"),
        (ValueError(), "the driver gives no reason (ValueError)"),
    ],
)
def test_every_failure_is_one_sentence(error: Exception, said: str) -> None:
    fsspec.register_implementation("failing", raising(error), clobber=True)
    problem = error_of("failing://b/net.pt?key=secret")
    assert said in problem.message
    assert problem.message.startswith("`failing://b/net.pt` cannot be fetched: ")
    assert "secret" not in problem.message
    assert problem.status == 3


def test_what_cannot_be_fetched_does_not_stop_the_others(store, bdscan) -> None:  # type: ignore[no-untyped-def]
    store.pipe("/net.pt", NET)
    status, out, err = bdscan("inspect", "memory://gone.pt", "memory://net.pt", *ASKED)
    told = [json.loads(line)["subject"] for line in out.splitlines()]
    assert [each["path"] for each in told] == ["memory://gone.pt", "memory://net.pt"]
    assert told[0]["sha256"] is None
    assert "memory://gone.pt: `memory://gone.pt` cannot be fetched: there is no such file" in err
    assert status == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("warp://bucket/net.pt", "nobody knows addresses that begin with `warp://`"),
        ("memory://x::file://y", "chain of addresses"),
        ("tardy://bucket/net.pt", "`tardy://` takes a driver that is not installed"),
        ("models:/net/3", "takes MLflow, which is not installed"),
    ],
)
def test_an_address_that_nothing_here_can_fetch_is_wrong_usage(address, said, monkeypatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "mlflow" else find(name, *_))
    fsspec.register_implementation("tardy", "no_such_driver.Driver", clobber=True, errtxt="install it")
    status, out, err = bdscan("inspect", "net.pt", address, *ASKED)
    assert (status, out) == (2, "")
    assert said in err
    assert "hint: " in err


def test_a_pattern_finds_models_by_their_names(store, bdscan, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store.pipe({"/nets/b.pt": NET, "/nets/a.PTH": NET, "/nets/notes.txt": b"x", "/nets/deep/c.pt": NET})
    status, out, err = bdscan("inspect", "memory://nets/*", *ASKED)
    assert [json.loads(line)["subject"]["path"] for line in out.splitlines()] == [
        "memory:///nets/a.PTH",
        "memory:///nets/b.pt",
    ]
    assert "skipped 1 file that is no model (.txt 1)" in err
    assert len(bdscan("inspect", "memory://nets/**", *ASKED)[1].splitlines()) == 3
    status, out, err = bdscan("inspect", "memory://other/*", *ASKED)
    assert (status, json.loads(out)["subject"]["path"]) == (3, "memory://other/*")
    assert "no model matches `memory://other/*`" in err

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(MemoryFileSystem, "glob", refused)
    status, _, err = bdscan("inspect", "memory://nets/*", *ASKED)
    assert status == 3
    assert "`memory://nets/*` cannot be fetched: access is denied" in err


def test_nothing_is_fetched_that_nobody_named(tmp_path: Path, bdscan, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("somebody opens a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    (tmp_path / "https:").mkdir()
    (tmp_path / "https:" / "net.pt").write_bytes(NET)
    assert bdscan("inspect", str(tmp_path / "https:" / "net.pt"), *ASKED)[0] == 3


def test_a_cure_is_for_what_is_here(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    asked = ("purify", "s3://me:secret@bucket/net.pt", "--clean", "x", "-o", str(tmp_path / "cured.pt"))
    status, out, err = bdscan(*asked)
    assert (status, out) == (2, "")
    assert "`s3://bucket/net.pt` lies elsewhere" in err


def test_ctrl_c_leaves_nothing_behind(store, bdscan, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    store.pipe("/net.pt", NET)
    monkeypatch.setattr(pipeline, "inspect", interrupted)
    status, out, _ = bdscan("inspect", "memory://net.pt", "memory://other.pt", *ASKED)
    failures = [json.loads(line)["runs"][0]["failure"] for line in out.splitlines()]
    assert (status, failures) == (3, ["stopped by the user"] * 2)


def test_the_cache_knows_a_model_by_its_address(store, tmp_path: Path, bdscan, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store.pipe({"/net.pt": NET, "/other.pt": NET})
    asked = (*ASKED, "--cache", str(tmp_path / "kept"))
    first = bdscan("inspect", "memory://net.pt", *asked)
    _, out, err = bdscan("inspect", "memory://net.pt", *asked)
    assert out == first[1]
    assert "memory://net.pt: unchanged" in err
    assert "unchanged" not in bdscan("inspect", "memory://other.pt", *asked)[2]
    store.pipe("/net.pt", (SAMPLES / "models" / "backdoored.pt").read_bytes())
    assert "unchanged" not in bdscan("inspect", "memory://net.pt", *asked)[2]


def mlflow(files: dict[str, bytes]) -> dict[str, ModuleType]:
    """A registry with one version of one model, which answers as MLflow's own functions do."""
    artifacts = ModuleType("mlflow.artifacts")

    def list_artifacts(artifact_uri: str) -> list[SimpleNamespace]:
        under = artifact_uri.removeprefix("models:/net@champion").strip("/")
        inside = {name.removeprefix(under).lstrip("/"): data for name, data in files.items() if name.startswith(under)}
        found = []
        for first in sorted({name.partition("/")[0] for name in inside}):
            path = f"{under}/{first}".lstrip("/")
            size = len(inside[first]) if first in inside else None
            found.append(SimpleNamespace(path=path, is_dir=first not in inside, file_size=size))
        return found

    def download_artifacts(artifact_uri: str, dst_path: str) -> str:
        if artifact_uri != "models:/net@champion":
            raise LookupError("Registered model alias gone not found")
        for name, data in files.items():
            (Path(dst_path) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(dst_path) / name).write_bytes(data)
        return dst_path

    artifacts.list_artifacts, artifacts.download_artifacts = list_artifacts, download_artifacts  # type: ignore[attr-defined]
    package = ModuleType("mlflow")
    package.artifacts = artifacts  # type: ignore[attr-defined]
    return {"mlflow": package, "mlflow.artifacts": artifacts}


def test_a_registered_model_is_found_among_its_artifacts(monkeypatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    files = {"MLmodel": b"flavors: ...", "conda.yaml": b"x", "data/model.pth": NET, "data/pickle_module_info.txt": b"x"}
    for name, module in mlflow(files).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    status, out, _ = bdscan("inspect", "models:/net@champion", *ASKED)
    assert status == 3
    assert json.loads(out)["subject"] | {"format": ""} == json.loads(out)["subject"] | {
        "path": "models:/net@champion",
        "sha256": hashlib.sha256(NET).hexdigest(),
        "format": "",
    }
    assert "is larger than the 0 MB" in error_of("models:/net@champion", 1000).message
    assert "alias gone not found (LookupError)" in error_of("models:/net@gone").message


def test_a_version_that_is_not_one_model_is_told(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for held, said in (
        ({"a.pt": NET, "b.onnx": NET}, "holds 2 model files: `a.pt`, `b.onnx`"),
        ({"x.txt": b""}, "no model"),
    ):
        for name, module in mlflow(held).items():
            monkeypatch.setitem(sys.modules, name, module)
        assert said in error_of("models:/net@champion").message


def test_a_split_model_is_one_model(store, bdscan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import torch

    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    for name, file in places.items():
        save_file({name: torch.ones(2)}, tmp_path / file)
        store.pipe(f"/net/{file}", (tmp_path / file).read_bytes())
    store.pipe(
        {"/net/config.json": b"{}", "/net/model.safetensors.index.json": json.dumps({"weight_map": places}).encode()}
    )
    status, out, _ = bdscan("inspect", "memory://net", *ASKED)
    held = {name.rpartition("/")[2]: store.cat(name) for name in store.find("/net")}
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(held.items()))
    assert status == 3
    assert json.loads(out)["subject"]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
