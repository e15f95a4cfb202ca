"""`--engine ray`: the same results by way of Ray, and a worker that dies costs one job."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bdscan.bench.workers.job import Job
from bdscan.bench.workers.jobs import Command, run
from bdscan.facts.problem import USAGE, Problem

WORKER = """
import json, os, signal, sys
job = json.load(open(sys.argv[1]))
if job["name"] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if job["name"] == "broken":
    sys.exit("no such luck")
json.dump({"name": job["name"], "where": os.getcwd()}, open(sys.argv[2], "w"))
"""


def work(folder: Path, *names: str) -> tuple[list[Job], Command]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    for name in names:
        (folder / f"{name}.pt").write_bytes(name.encode())

    def command(told: Path, outcome: Path) -> list[str]:
        return [sys.executable, str(script), str(told), str(outcome)]

    return [Job(name=name, method="inspect", model=str(folder / f"{name}.pt"), device="cpu") for name in names], command


def test_other_engines_are_told_at_once(tmp_path: Path) -> None:
    jobs, command = work(tmp_path, "good")
    with pytest.raises(Problem, match="slurm") as raised:
        run(jobs, tmp_path / "out", command=command, engine="slurm")
    assert raised.value.status == USAGE


def test_ray_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    jobs, command = work(tmp_path, "good")
    with pytest.raises(Problem, match="not installed") as raised:
        run(jobs, tmp_path / "out", command=command, engine="ray")
    assert raised.value.status == USAGE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_that_dies_costs_one_job(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    jobs, command = work(tmp_path, "good", "killed", "broken", "fine")
    made = run(jobs, tmp_path / "out", workers=2, command=command, engine="ray")
    assert [result["failure"] for result in made] == [
        None,
        "exit status -9: no word",
        "exit status 1: no such luck",
        None,
    ]
    assert made[0]["outcome"] == {"name": "good", "where": str(Path.cwd())}
    again = run(jobs[:1], tmp_path / "out", command=command, engine="ray")
    assert again[0] == made[0]
