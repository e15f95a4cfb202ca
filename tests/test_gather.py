"""What is a model in a folder and what is not, and that many of them cost no more than one after another."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from conftest import ROOT, SAMPLES

from bdscan.load.source.gather import gather

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"
TORCH_ZIP = (SAMPLES / "models" / "clean.pt").read_bytes()


def lay(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def names(root: Path, models: list[str]) -> list[str]:
    return [str(Path(model).relative_to(root)) for model in models]


def test_a_folder_gives_its_models_in_order_and_counts_the_rest(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "b/net.pt": b"anything",
            "a.ONNX": b"anything",
            "c/epoch.10": pickle.dumps({}),
            "c/weights.bin": TORCH_ZIP,
            "c/firmware.bin": b"\x7fELF",
            "d/pointer.bin": LFS,
            "notes.txt": b"x",
            "b/notes.txt": b"x",
            "train.py": b"x",
            "Makefile": b"all:",
            ".git/objects/net.pt": b"x",
        },
    )
    gathered = gather([str(tmp_path)])
    assert names(tmp_path, gathered.models) == ["a.ONNX", "b/net.pt", "c/epoch.10", "c/weights.bin", "d/pointer.bin"]
    told = "skipped 6 files that are no models (.txt 2, .bin 1, .git 1, .py 1, no suffix 1)"
    assert gathered.left_out == told
    assert gathered.listed
    assert not gathered.problems


def test_a_model_folder_is_one_model_and_hides_nothing(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "net/config.json": b"{}",
            "net/model.safetensors": b"x",
            "net/pytorch_model.bin": pickle.dumps({}),
            "net/deep/evil.pt": b"x",
            "net/README.md": b"x",
        },
    )
    gathered = gather([str(tmp_path / "net")])
    assert names(tmp_path, gathered.models) == ["net", "net/deep/evil.pt", "net/pytorch_model.bin"]
    assert gathered.skipped == {".md": 1}


def test_what_is_named_is_a_model_whatever_it_looks_like(tmp_path: Path) -> None:
    lay(tmp_path, {"b.txt": b"x", "a.txt": b"x"})
    named = [str(tmp_path / name) for name in ("b.txt", "a.txt", "missing.pt", "b.txt")]
    gathered = gather(named)
    assert gathered.models == named
    assert not gathered.listed


def test_patterns_and_the_home_that_no_shell_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, {"x/1.pt": b"x", "y/2.pt": b"x", "y/2.txt": b"x", "odd[1].pt": b"x"})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(tmp_path, gather([str(tmp_path / "*" / "*")]).models) == ["x/1.pt", "y/2.pt"]
    assert names(tmp_path, gather(["~/**/*.pt"]).models) == ["odd[1].pt", "x/1.pt", "y/2.pt"]
    assert names(tmp_path, gather(["~/odd[1].pt"]).models) == ["odd[1].pt"]
    ((_, problem),) = gather([str(tmp_path / "z*")]).problems
    assert problem.status == 3
    assert "no model matches" in problem.message


def test_links_lead_neither_round_in_circles_nor_to_the_same_file_twice(tmp_path: Path) -> None:
    lay(tmp_path, {"blobs/aa": pickle.dumps({}), "fifo/x.txt": b""})
    (tmp_path / "net.pt").symlink_to(tmp_path / "blobs" / "aa")
    (tmp_path / "gone.pt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo" / "pipe.pt")
    gathered = gather([str(tmp_path)])
    assert names(tmp_path, gathered.models) == ["blobs/aa", "fifo/pipe.pt", "gone.pt"]
    assert gathered.skipped == {"linked folder": 1, ".txt": 1}
    assert not gathered.problems


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    lay(tmp_path, {"open/net.pt": TORCH_ZIP, "shut/net.pt": TORCH_ZIP})
    scandir = os.scandir

    def guarded(path: os.PathLike[str] = Path()) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    status, out, err = bdscan("inspect", str(tmp_path), "--probe", "artifact", "--format", "json")
    assert status == 3
    assert [Path(json.loads(line)["subject"]["path"]).name for line in out.splitlines()] == ["shut", "net.pt"]
    assert "`" + str(tmp_path / "shut") + "` cannot be read: Permission denied" in err


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    lay(tmp_path, {"README.txt": b"x"})
    status, out, err = bdscan("inspect", str(tmp_path), "--format", "json")
    assert status == 3
    assert json.loads(out)["verdict"] == "inconclusive"
    assert "holds no model" in err
    assert "skipped 1 file that is no model (.txt 1)" in err


def test_a_pointer_is_named_as_one(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    lay(tmp_path, {"net.pt": LFS})
    status, _, err = bdscan("inspect", str(tmp_path), "--probe", "artifact")
    assert status == 3
    assert "git-LFS pointer" in err
    assert "git lfs pull" in err


def test_many_small_files_leave_nothing_behind(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    def memory(count: int) -> int:
        tracemalloc.start()
        try:
            status, out, _ = bdscan("inspect", str(tmp_path / str(count)), "--probe", "artifact", "--format", "json")
            assert status == 3
            assert len(out.splitlines()) == count
            del out
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for count in (5, 20, 200):
        lay(tmp_path / str(count), {f"{number:03}.pt": pickle.dumps({"x": number}) for number in range(count)})
    memory(5)  # what is imported once
    few = memory(20)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    many = memory(200)
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    # What grows is the output that the test itself keeps, about 2 kB a model, held twice on its way.
    assert many - few < 180 * 10_000


def test_a_name_may_hold_anything(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    for name in (b"\xff.pt", b"\x1b[2J.pt", "naïve.pt".encode(), b"a b\n.pt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"nothing of the kind")
    for form in ("text", "json", "markdown", "sarif", "junit"):
        status, out, err = bdscan("inspect", str(tmp_path), "--probe", "artifact", "--format", form)
        assert status == 3
        assert "\x1b" not in out + err
        (out + err).encode()


# The peak of the process itself: the one that the system keeps for the parent begins with the parent's own.
MEASURED = """
import sys, time
from pathlib import Path
from bdscan.cli import main
try:
    main()
finally:
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(time.process_time(), peak.split()[1], len(list(Path("/proc/self/fd").iterdir())), file=sys.stderr)
"""


def spent(folder: Path, probe: str) -> tuple[float, float, int]:
    """Processor seconds, peak memory in MB and open files of one call; every model must have got its report."""
    call = [sys.executable, "-c", MEASURED, "inspect", str(folder), "--probe", probe, "--format", "json"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == len(list(folder.iterdir()))
    seconds, peak, files = done.stderr.splitlines()[-1].split()
    return float(seconds), int(peak) / 1024, int(files)


@pytest.mark.slow
@pytest.mark.parametrize(("probe", "counts"), [("artifact", (50, 250, 1000)), ("head", (5, 25, 100))])
def test_time_grows_with_the_number_and_memory_does_not(
    probe: str, counts: tuple[int, int, int], tmp_path: Path
) -> None:
    import torch

    net = torch.load(SAMPLES / "models" / "clean.pt", weights_only=True)
    found = []
    for count in counts:
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            held = {"x": torch.full((9,), number)} if probe == "artifact" else net | {"number": torch.tensor(number)}
            torch.save(held, folder / f"{number:04}.pt")
        found.append(spent(folder, probe))
    (few, _, at_first), (more, memory, _), (most, peak, files) = found
    each, each_of_many = (more - few) / (counts[1] - counts[0]), (most - more) / (counts[2] - counts[1])
    print(f"{probe}: {found}, {each * 1000:.1f} and {each_of_many * 1000:.1f} ms a model")
    assert each_of_many < 1.5 * each + 0.002
    assert peak < memory + 20
    assert files == at_first
