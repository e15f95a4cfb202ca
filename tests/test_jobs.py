"""Models side by side: the same reports in the same order, and what kills one process costs one report."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, SAMPLES

from bdscan.cli import progress_bar
from bdscan.facts.finding import Finding, Level
from bdscan.pipeline import Options, pool, scan_many
from bdscan.pipeline.scan import Scanner, open_cache
from bdscan.probes.artifact import Artifact

MODELS = [str(SAMPLES / "models" / f"{name}.pt") for name in ("clean", "backdoored")]
ASKED = ("--probe", "artifact", "--format", "json")
# A worker that comes to grief over certain names, as a real one may over certain bytes.
TROUBLED = """
import os, signal, sys, time
from bdscan.pipeline import scan, scan_many
one = scan.Scanner.scan
def troubled(self, name):
    if "killed.pt" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "left.pt" in name:
        os._exit(7)
    if "slow.pt" in name:
        open(name + ".begun", "w").write(str(os.getpid()))
        time.sleep(60)
    if "late.pt" in name:
        time.sleep(1)
    return one(self, name)
scan.Scanner.scan = troubled
scan_many.main()
"""


def evil(path: Path) -> str:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    path.write_bytes(pickle.dumps(Payload()))
    return str(path)


def told(out: str) -> list[dict[str, object]]:
    """The reports, without what no two scans share."""
    reports = [json.loads(line) for line in out.splitlines()]
    for report in reports:
        for each in (report["made_with"], *report["runs"]):
            each.pop("seconds", None)
            each.pop("torch", None)  # of which the process of the tests may know without need
    return reports


def failures(out: str) -> dict[str, str | None]:
    return {Path(each["subject"]["path"]).name: each["runs"][0]["failure"] for each in told(out)}  # type: ignore[index]


@pytest.mark.parametrize("more", [(), pytest.param(("--probe", "head"), marks=pytest.mark.slow)])
def test_the_same_reports_in_the_same_order(more: tuple[str, ...], tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "garbage.pt").write_bytes(b"nothing of the kind")
    asked = ("inspect", *MODELS, str(tmp_path / "garbage.pt"), evil(tmp_path / "evil.pt"), *ASKED, *more)
    serial, parallel = bdscan(*asked), bdscan(*asked, "--jobs", "2")
    assert told(parallel[1]) == told(serial[1])
    assert (parallel[0], parallel[2]) == (serial[0], serial[2])
    assert serial[0] == 1


def test_a_process_that_is_killed_costs_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(scan_many, "WORKER", TROUBLED)
    names = ("late.pt", "killed.pt", "a.pt", "left.pt", "b.pt")
    for name in names:
        (tmp_path / name).write_bytes(Path(MODELS[0]).read_bytes())
    status, out, err = bdscan("inspect", *(str(tmp_path / name) for name in names), *ASKED, "--jobs", "2")
    assert status == 4
    assert list(failures(out)) == list(names), "in the order in which they were named"
    assert failures(out) == dict.fromkeys(names) | {
        "killed.pt": "our fault: the process that looked at it was ended by SIGKILL, as happens when memory runs out",
        "left.pt": "our fault: the process that looked at it ended with status 7",
    }
    assert "killed.pt: our fault" in err
    assert "Traceback" not in err


def test_secrets_are_not_told(monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(scan_many, "WORKER", TROUBLED)
    shown: list[str] = []
    monkeypatch.setattr(progress_bar.ProgressBar, "show", lambda self, *told: shown.append(str(told)))
    names = [f"memory://me:secret@store/{name}.pt?signature=secret" for name in ("killed", "gone")]
    status, out, err = bdscan("inspect", *names, *ASKED, "--jobs", "2")
    assert status == 4
    assert list(failures(out)) == ["killed.pt", "gone.pt"]
    assert any("gone.pt" in each for each in shown)
    assert "secret" not in out + err + "".join(shown)


def test_no_process_at_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    def none(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", none)
    status, out, _ = bdscan("inspect", *MODELS, *ASKED, "--jobs", "2")
    assert status == 4
    why = "our fault: no process could be started to look at it: Resource temporarily unavailable"
    assert set(failures(out).values()) == {why}


def test_wrong_usage_ends_everything(bdscan) -> None:  # type: ignore[no-untyped-def]
    asked = ("inspect", *MODELS, "--probe", "head", "--normalize", "wrong", "--jobs", "2")  # found out by a process
    status, out, err = bdscan(*asked)
    assert (status, out) == (2, "")
    assert err.count("bdscan: ") == 1
    assert "wrong" in err
    assert bdscan("inspect", *MODELS, "--jobs", "0")[0] == 2


def test_a_crash_is_told_of_its_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    broken = "import bdscan.pipeline\ndef broken(*_): raise RuntimeError('broken')\nbdscan.pipeline.inspect = broken\n"
    monkeypatch.setattr(scan_many, "WORKER", f"exec({broken!r}); {scan_many.WORKER}")
    status, out, err = bdscan("inspect", *MODELS, *ASKED, "--jobs", "2")
    assert status == 4
    assert set(failures(out).values()) == {"our fault: RuntimeError: broken"}
    assert err.count("please report it") == 2


def test_nothing_is_imported_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    """It may be the tree that is judged."""
    for name in ("numpy", "torch", "typer", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'hijacked')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert bdscan("inspect", *MODELS, *ASKED, "--jobs", "2")[0] == 3
    assert not (tmp_path / "hijacked").exists()


def test_the_cache_serves_both(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    asked = ("inspect", *MODELS, *ASKED, "--cache", str(tmp_path / "kept"))
    first = bdscan(*asked, "--jobs", "2")
    assert bdscan(*asked)[1] == first[1]
    status, out, err = bdscan(*asked, "--jobs", "2")
    assert (status, out) == first[:2]
    assert err.count("unchanged, the report is from the cache") == 2


def test_ctrl_c_is_meant_for_all_that_follow(monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    looked: list[object] = []

    def interrupted(self: Artifact, case: object) -> Iterator[Finding]:
        looked.append(case)
        yield Finding(level=Level.NOTE, message="seen until then")
        raise KeyboardInterrupt

    monkeypatch.setattr(Artifact, "__call__", interrupted)
    status, out, _ = bdscan("inspect", *MODELS, *ASKED)
    first, second = told(out)
    assert status == 3
    assert len(looked) == 1
    assert first["runs"][0]["findings"][0]["message"] == "seen until then"  # type: ignore[index]
    assert failures(out) == dict.fromkeys(("clean.pt", "backdoored.pt"), "stopped by the user")
    assert second["verdict"] == "inconclusive"


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(pool, "cores", lambda: 8)

    def threads(jobs: int) -> str:
        with pool.ProcessPool(jobs) as processes:
            return processes.environment["OMP_NUM_THREADS"]

    assert [threads(jobs) for jobs in (1, 2, 3, 16)] == ["8", "4", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads(2) == "5", "whoever says so has their way"


def test_an_order_comes_back_as_it_was(tmp_path: Path) -> None:
    options = Options(
        clean="x",
        arch="timm:y",
        normalize="none",
        classes=tmp_path / "names.txt",
        probes=("head", "linf"),
        settings={"head": {"threshold": "3"}},
        effort="fast",
        budget=1.5,
        device="cpu",
        seed=7,
    )
    for cache in (None, open_cache(tmp_path / "kept", options)):
        again = scan_many.read_order(scan_many.order_of(Scanner(options, cache, 3e6)))
        assert {**vars(again.options), "show": None} == {**vars(options), "show": None}
        assert again.max_bytes == 3e6
        if cache is not None:
            assert again.cache is not None
            assert again.cache.key(MODELS[0]) == cache.key(MODELS[0])


def waited(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 3), (signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_whatever_ends_the_call_ends_its_processes(sent: signal.Signals, status: int, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("quick.pt", "slow.pt", "next.pt", "last.pt")]
    for name in names:
        Path(name).write_bytes(Path(MODELS[0]).read_bytes())
    # Where the tests themselves run in the background of a shell, Ctrl-C is ignored, and would be here.
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    troubled = f"from bdscan.pipeline import scan_many\nscan_many.WORKER = {TROUBLED!r}\n"
    begin = f"{heard}{troubled}from bdscan.cli import main\nmain()"
    call = subprocess.Popen(
        [sys.executable, "-c", begin, "inspect", names[1], *names[:1], *names[2:], *ASKED, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    begun = Path(f"{names[1]}.begun")
    assert waited(lambda: begun.exists() and begun.stat().st_size > 0)
    time.sleep(0.5)  # until the others have had their turn
    call.send_signal(sent)
    out, err = call.communicate(timeout=60)
    assert call.returncode == status, err
    assert waited(lambda: gone(int(begun.read_text())))
    if sent is not signal.SIGKILL:
        assert list(failures(out).values()) == ["stopped by the user"] * 4
        assert not list(tmp_path.glob("bdscan-*"))
        assert "Traceback" not in err


def test_what_a_library_prints_is_no_answer(tmp_path: Path) -> None:
    begin = (
        f"import sys; sys.path.append({str(ROOT)!r})\nfrom bdscan.pipeline import scan, scan_many\n"
        "one = scan.Scanner.scan\ndef loud(self, name):\n    print('done')\n    return one(self, name)\n"
        "scan.Scanner.scan = loud\nscan_many.main()"
    )
    order = scan_many.order_of(Scanner(Options(probes=("artifact",)), None, 1e9))
    asked = "".join(f"{json.dumps([MODELS[0], str(tmp_path / name)])}\n" for name in ("1.npz", "2.npz"))
    process = subprocess.Popen(
        [sys.executable, "-c", begin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(f"{order}\n{asked}")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == [pool.DONE] * 2
    result = scan_many.read_result(tmp_path / "2.npz")
    assert result.report.subject.path == MODELS[0]
    assert result.stderr == ""
    process.stdin.close()
    assert process.wait(20) == 0, "nobody asks any more"
    process.stdout.close()
    process.stderr.close()


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    opened_files = len(list(Path("/proc/self/fd").iterdir()))
    assert bdscan("inspect", *MODELS, *ASKED, "--jobs", "2")[0] == 3
    assert not list((tmp_path / "t").iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == opened_files
    assert scan_many.main is not None
