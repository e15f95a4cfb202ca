"""Weights in several files are one model, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SAMPLES
from safetensors.torch import save_file

from bdscan.facts.problem import Problem
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import survey
from bdscan.load.source.gather import gather

FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return read(survey(SAMPLES / "models" / "clean.pt")).tensors


@pytest.fixture
def split(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A sample as Hugging Face splits large models."""
    folder = tmp_path / "net"
    folder.mkdir()
    names = sorted(state)
    halves = dict(zip(FILES, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True))
    for file, held in halves.items():
        save_file({name: state[name].clone() for name in held}, folder / file)
    places = {name: file for file, held in halves.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    (folder / "config.json").write_text("{}")
    return folder


def places(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    held = json.loads((folder / INDEX).read_text())
    change(held["weight_map"])
    (folder / INDEX).write_text(json.dumps(held))


def test_all_tensors_are_there(split: Path, state: dict[str, torch.Tensor]) -> None:
    contents = survey(split)
    weights = read(contents)
    assert contents.format == "safetensors"
    assert weights.described == "safetensors, state dict in 2 files"
    assert weights.tensors.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.tensors.items())
    assert contents.size == sum((split / file).stat().st_size for file in FILES)
    files = sorted(split.iterdir())
    listed = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    assert contents.sha256 == hashlib.sha256(listed.encode()).hexdigest(), "what `sha256sum * | sha256sum` says"


def test_a_folder_is_one_model_and_hides_nothing(split: Path) -> None:
    save_file({"x": torch.ones(1)}, split / "other.safetensors")
    assert [Path(each).name for each in gather([str(split)]).models] == ["net", "other.safetensors"]
    save_file({"x": torch.ones(1)}, split / "model.safetensors")
    contents = survey(split)
    assert contents.weights.name == "model.safetensors", "readers prefer the file that is whole"
    assert [danger.message for danger in contents.dangers] == [
        f"the folder also holds `{INDEX}`, which was not looked at"
    ]
    names = [Path(each).name for each in gather([str(split)]).models]
    assert names == ["net", *FILES, "other.safetensors"]


def test_a_missing_file_is_told_by_name(split: Path) -> None:
    (split / FILES[1]).unlink()
    with pytest.raises(Problem, match=rf"`{FILES[1]}` of .* is not there"):
        survey(split)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.popitem(), "the index does not say so"),
        (lambda held: held.update(extra=FILES[0]), "disagree about the tensor `extra` .* it is not there"),
        (lambda held: held.update({next(iter(held)): FILES[1]}), "disagree about the tensor"),
    ],
)
def test_an_index_that_is_wrong_is_refused(change: Callable[[dict[str, str]], object], said: str, split: Path) -> None:
    """Two readers would read two models."""
    places(split, change)
    with pytest.raises(Problem, match=said):
        read(survey(split))


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a\\b.safetensors", "net.bin", ""])
def test_an_index_leads_nowhere_else(name: str, split: Path) -> None:
    places(split, lambda held: held.update(x=name))
    with pytest.raises(Problem, match="names a file that is none of its folder's"):
        survey(split)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_one_sentence(text: str, split: Path) -> None:
    (split / INDEX).write_text(text)
    with pytest.raises(Problem, match=r"is not readable as an index|does not say where") as told:
        survey(split)
    assert told.value.status == 3


def test_a_pickle_under_a_shards_name_is_refused(split: Path) -> None:
    torch.save({"x": torch.ones(1)}, split / FILES[1])
    with pytest.raises(Problem, match="one of its safetensors files is really a pytorch zip"):
        survey(split)


def test_a_pointer_among_the_files_is_named_as_one(split: Path) -> None:
    (split / FILES[1]).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    with pytest.raises(Problem, match="git-LFS pointer"):
        survey(split)


def test_one_is_looked_at_and_its_cure_refused(split: Path, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    status, out, _ = bdscan("inspect", str(split), "--probe", "head", "--format", "json")
    assert status == 3
    assert json.loads(out)["subject"]["tensors_loaded"] == 82
    images = str(SAMPLES / "images")
    status, _, err = bdscan(
        "purify", str(split), "--clean", images, "-o", str(tmp_path / "cured"), "--method", "finetune"
    )
    assert status == 2
    assert "are split over several files, and cleaned ones are written as one" in err


def test_the_cache_sees_every_file(split: Path) -> None:
    from bdscan.gate.cache import Cache

    cache = Cache(split, {"clean": None, "arch": "auto", "classes": None})
    seen = {cache.key(str(split))}
    save_file({"x": torch.ones(1)}, split / FILES[1])
    seen.add(cache.key(str(split)))
    places(split, lambda held: held.update(x=FILES[1]))
    seen.add(cache.key(str(split)))
    assert len(seen) == 3
