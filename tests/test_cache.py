"""A report from the cache is the report of the scan, and comes from there only while nothing has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, SAMPLES
from test_report import backdoored

from bdscan import pipeline
from bdscan.facts.evidence import Measure
from bdscan.facts.failure import STOPPED, Failure, FailureKind
from bdscan.facts.finding import Finding, Level, Run
from bdscan.gate import provenance
from bdscan.gate.cache import Cache
from bdscan.gate.provenance import sha256_of
from bdscan.report import FORMATS, Report, render

OPTIONS: dict[str, Any] = {"clean": None, "arch": "auto", "classes": None, "seed": 0, "settings": {}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "net.pt").write_bytes((SAMPLES / "models" / "clean.pt").read_bytes())
    return tmp_path / "net.pt"


def about(path: Path, report: Report | None = None) -> Report:
    """A long report that says it is about this file."""
    report = report or backdoored()
    sha256 = sha256_of(path)
    return replace(report, subject=replace(report.subject, path=str(path), sha256=sha256))


def kept(model: Path, **options: object) -> tuple[Cache, str]:
    cache = Cache(model.parent / "kept", OPTIONS | options)
    key = cache.key(str(model))
    assert key is not None
    return cache, key


def test_every_form_is_the_same_to_the_byte(model: Path) -> None:
    cache, key = kept(model)
    assert cache.get(key) is None
    report = about(model)
    assert any(finding.classes for run in report.runs for finding in run.findings)
    cache.put(key, report)
    again = cache.get(key)
    assert again is not None
    for form in FORMATS:
        assert render(again, form) == render(report, form), form
    assert [path.name for path in cache.folder.iterdir()] == [f"{key}.npz"]


def test_numbers_of_any_kind_come_back(model: Path) -> None:
    cache, key = kept(model)
    measure = Measure(score=np.float32(0.1))  # type: ignore[arg-type]
    finding = Finding(level=Level.NOTE, message="x", measure=measure, channels=(1, 2), p_value=1 / 3)
    report = about(model, replace(backdoored(), runs=(Run(probe="x", findings=(finding,)),)))
    cache.put(key, report)
    again = cache.get(key)
    assert again is not None
    assert again.runs == report.runs


def test_a_change_of_anything_is_another_scan(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, names, elsewhere = tmp_path / "images", tmp_path / "names.txt", tmp_path / "elsewhere"
    (images / "a").mkdir(parents=True)
    elsewhere.mkdir()
    (images / "a" / "1.png").write_bytes(b"1")
    names.write_text("a")

    def key(**options: object) -> str:
        return kept(model, **({"clean": str(images), "classes": names} | options))[1]

    def touch(second: int) -> None:
        for picture in (images / "a").iterdir():
            os.utime(picture, (second, second))

    first = key()
    assert first == key()
    touch(1)
    assert first == key(), "a date is no change"
    changes: list[Callable[[], object]] = [
        lambda: (images / "a" / "1.png").write_bytes(b"2"),
        lambda: (images / "a" / "1.png").rename(images / "a" / "2.png"),
        lambda: (images / "b").mkdir(),
        lambda: (images / "c").symlink_to(elsewhere),
        lambda: (elsewhere / "1.png").write_bytes(b"1"),
        lambda: (elsewhere / "round").symlink_to(images),
        lambda: names.write_text("b"),
        lambda: model.write_bytes(b"other"),
        lambda: monkeypatch.setattr(provenance, "_own_files", lambda: "other"),
        lambda: monkeypatch.setattr(provenance, "_versions", lambda: iter(["torch 1"])),
    ]
    seen = {first, key(seed=1), key(settings={"head": {"x": "1"}}), key(clean=None), key(arch="timm:x")}
    assert len(seen) == 5
    for change in changes:
        change()
        assert key() not in seen
        seen.add(key())
    monkeypatch.chdir(images)
    gone = key(clean="gone")
    (images / "d").mkdir()
    assert gone == key(clean="gone"), "what is misspelt is not the folder where one stands"
    monkeypatch.setattr(provenance, "MAX_BYTES", 0)
    large = key()
    touch(2)
    assert large != key(), "of large sets the dates count"


def test_what_is_never_kept(model: Path) -> None:
    assert Cache(model.parent, OPTIONS | {"arch": "net.py:build"}).key(str(model)) is None
    assert Cache(model.parent, OPTIONS).key(str(model.parent / "none.pt")) is None
    cache, key = kept(model)
    for failure in (STOPPED, Failure(FailureKind.BUDGET, "stopped: the budget of 1 s is spent"), Failure.ours("X: y")):
        cache.put(key, about(model, replace(backdoored(), runs=(Run(probe="x", failure=failure),))))
    cache.put(key, backdoored())  # about another file: this one was changed while it was looked at
    assert not cache.folder.exists()


def test_a_damaged_or_foreign_file_is_no_report(model: Path) -> None:
    cache, key = kept(model)
    cache.put(key, about(model))
    file = cache.folder / f"{key}.npz"
    whole = file.read_bytes()
    strange = {"kind": "bdscan.cache/2", "key": key, "report": {"runs": 3}}
    for text in (b"{}", b"[]", b"nothing", json.dumps(strange).encode(), json.dumps(strange | {"key": "x"}).encode()):
        np.savez(file, report=np.frombuffer(text, np.uint8))
        assert cache.get(key) is None, text
    np.savez(file, report=np.array([{}], dtype=object), allow_pickle=True)
    assert cache.get(key) is None
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        file.write_bytes(whole[:place])
        assert cache.get(key) is None, place
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        file.write_bytes(broken)
        cache.get(key)  # whatever it says, it does not raise
    file.write_bytes(whole)
    assert cache.get(key) is not None
    other = cache.folder / f"{key[:-1]}{'0' if key[-1] != '0' else '1'}.npz"
    file.rename(other)
    assert cache.get(other.stem) is None, "renamed by somebody"


def test_a_hit_comes_without_torch_and_a_miss_is_scanned(model: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    looked: list[str] = []

    def inspect(path: str, options: object) -> Report:
        looked.append(path)
        return about(Path(path))

    monkeypatch.setattr(pipeline, "inspect", inspect)
    where = ("--cache", str(model.parent / "kept"))
    asked = ["inspect", str(model), "--clean", str(SAMPLES / "images"), "--format", "json"]
    plain = bdscan(*asked)
    assert bdscan(*asked, *where)[:2] == plain[:2]
    status, out, err = bdscan(*asked, *where, "--budget", "5")
    assert (status, out) == plain[:2]
    assert "unchanged, the report is from the cache" in err
    assert len(looked) == 2
    code = (
        f"import sys\nfrom bdscan.cli import main\nsys.argv = ['bdscan', *{[*asked, *where]}]\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert left.code == 1\nassert 'torch' not in sys.modules"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout == out
    bdscan(*asked, *where, "--seed", "1")
    assert len(looked) == 3


def test_a_cache_that_cannot_be_used_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan: Callable[..., tuple[int, str, str]]
) -> None:
    assert bdscan("inspect", str(model), "--probe", "artifact", "--cache", str(model))[0] == 2

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    status, out, err = bdscan("inspect", str(model), "--probe", "artifact", "--cache", str(tmp_path / "kept"))
    assert status == 3
    assert "verdict" in out, "the report comes all the same"
    assert "No space left on device" in err
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.slow
def test_an_unchanged_model_costs_no_second(tmp_path: Path) -> None:
    """Of processor time from start to exit: the clock on the wall depends on who else is at work."""
    code = (
        "import atexit, sys, time\natexit.register(lambda: print(time.process_time(), file=sys.stderr))\n"
        "from bdscan.cli import main\nmain()"
    )
    model, images = str(SAMPLES / "models" / "clean.pt"), str(SAMPLES / "images")
    asked = ["inspect", model, "--clean", images, "--probe", "artifact", "--cache", str(tmp_path / "kept")]
    done = [
        subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, cwd=ROOT) for _ in range(2)
    ]
    assert done[0].stdout == done[1].stdout
    assert "unchanged" in done[1].stderr
    assert float(done[1].stderr.splitlines()[-1]) < 1
