"""Evidence is never overwritten, devices are written to, and nothing of a call that was killed stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SAMPLES

from bdscan.facts.atomic_files import AtomicFiles

CLEAN = SAMPLES / "models" / "clean.pt"
ASKED = ("--probe", "artifact")


@pytest.fixture
def laid(tmp_path: Path) -> Path:
    """A model, a model folder and all else that a scan reads."""
    (tmp_path / "net.pt").write_bytes(CLEAN.read_bytes())
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "pytorch_model.bin").write_bytes(CLEAN.read_bytes())
    (tmp_path / "net" / "config.json").write_text("{}")
    (tmp_path / "net" / "README.md").write_text("words")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"1")
    (tmp_path / "names.txt").write_text("a")
    (tmp_path / "policy.toml").write_text("")
    (tmp_path / "known.json").write_text('{"schema": "bdscan.baseline/1", "findings": []}')
    (tmp_path / "link.json").symlink_to("net.pt")
    os.link(tmp_path / "net.pt", tmp_path / "hard.json")
    return tmp_path


@pytest.mark.parametrize("option", ["--output", "--sbom", "--attest", "--write-baseline"])
@pytest.mark.parametrize(
    "place",
    ["net.pt", "link.json", "hard.json", "images/a/1.png", "names.txt", "policy.toml"]
    + [f"net/{name}" for name in ("config.json", "README.md", "preprocessor_config.json")],
)
def test_no_output_takes_the_place_of_an_input(option: str, place: str, laid: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    before = {path: path.read_bytes() for path in laid.rglob("*") if path.is_file()}
    given = {"--clean": "images", "--classes": "names.txt", "--policy": "policy.toml"}
    read = [word for name, path in given.items() for word in (name, str(laid / path))]
    status, out, err = bdscan("inspect", str(laid), *ASKED, *read, option, str(laid / place))
    assert (status, out) == (2, "")
    assert "would be written over" in err
    assert {path: path.read_bytes() for path in laid.rglob("*") if path.is_file()} == before


def test_a_baseline_is_renewed_and_nothing_else_written_over_it(laid: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    known, asked = str(laid / "known.json"), ("inspect", str(laid / "net.pt"), *ASKED)
    assert bdscan(*asked, "--baseline", known, "--write-baseline", known)[0] == 3
    assert bdscan(*asked, "--baseline", known, "--output", known)[0] == 2
    assert bdscan(*asked, "--output", str(laid / "x"), "--sbom", str(laid / "x"))[0] == 2
    assert not (laid / "x").exists()


def test_purify_and_train_write_over_nothing_either(laid: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    images = str(laid / "images")
    for report, output in (("net.pt", "out.pt"), ("images/a/1.png", "out.pt"), ("r.json", "images/a/1.png")):
        asked = ("--clean", images, "-o", str(laid / output), "--report", str(laid / report))
        assert bdscan("purify", str(laid / "net.pt"), *asked)[0] == 2
        given = ("--arch", "wrn-16-1", "-o", str(laid / output), "--report", str(laid / report), "--classes")
        assert bdscan("train", images, *given, str(laid / ("names.txt" if report != "net.pt" else "net.pt")))[0] == 2
    assert (laid / "images" / "a" / "1.png").read_bytes() == b"1"


def test_a_report_goes_to_a_device_and_behind_a_link(laid: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (laid / "null").symlink_to(os.devnull)
    (laid / "latest.json").symlink_to("report.json")
    (laid / "report.json").write_text("old")
    for name in (os.devnull, str(laid / "null"), str(laid / "latest.json")):
        assert bdscan("inspect", str(laid / "net.pt"), *ASKED, "--output", name)[0] == 3
    assert not Path(os.devnull).is_file()
    assert (laid / "null").is_symlink()
    assert (laid / "latest.json").is_symlink()
    assert "inconclusive" in (laid / "report.json").read_text()


def test_what_a_killed_call_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom bdscan.facts.atomic_files import AtomicFiles\n"
        "files = AtomicFiles()\nfiles.temporary(Path(sys.argv[1]) / 'a').write_bytes(b'half')\n"
        "files.temporary(Path(sys.argv[1]) / 'b').mkdir()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    machine = left[0].name.split("-")[1]
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / f".bdscan-{machine}-{2**22 + 5}-{'0' * 12}").symlink_to(outside)
    kept = [f".bdscan-{machine}-{os.getpid()}-{'1' * 12}", f".bdscan-{'0' * 8}-{2**22 + 5}-{'2' * 12}", ".bdscan-cache"]
    for name in kept:
        (tmp_path / name).touch()
    forgotten = tmp_path / f".bdscan-{'0' * 8}-1-{'3' * 12}"
    forgotten.touch()
    os.utime(forgotten, (time.time() - 2 * 86400,) * 2)
    with AtomicFiles() as files:
        files.temporary(tmp_path / "new").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "new"])
    assert (outside / "kept").exists()
