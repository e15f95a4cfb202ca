"""`bdscan bench train`: what it measures, what it keeps, and the table that is made from that alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import TARGET, drawn, written

from bdscan.bench.result_json import read_result
from bdscan.bench.tables.grid import markdown
from bdscan.bench.train import run_train, train_net
from bdscan.bench.train.pace import measure_pace
from bdscan.bench.workers.job import TrainJob
from bdscan.bench.workers.jobs import SCHEMA


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    folder, other = tmp_path_factory.mktemp("train"), tmp_path_factory.mktemp("test")
    spec, arch = written(folder, *drawn(900))
    return spec, written(other, *drawn(240, seed=9))[0], arch


def train_job(desk: tuple[str, str, str], trainer: str, **more: Any) -> TrainJob:
    options = ("abl.epochs=6", "abl.watch=8", "abl.batch=32") if trainer == "abl" else ("plain.epochs=6",)
    spec, test, arch = desk
    job = {"plant": "badnets", "rate": 0.1, "target": TARGET, "augment": "none", "probes": ("head",)}
    return TrainJob(
        name=f"one.{trainer}", clean=spec, test=test, arch=arch, trainer=trainer, options=options, **{**job, **more}
    )


@pytest.fixture(scope="module")
def outcomes(desk: tuple[str, str, str]) -> dict[str, dict[str, Any]]:
    return {trainer: train_net.do(train_job(desk, trainer)) for trainer in ("plain", "abl")}


def test_it_measures_what_only_the_attacker_knows(outcomes: Mapping[str, Mapping[str, Any]]) -> None:
    plain, abl = outcomes["plain"]["measured"], outcomes["abl"]["measured"]
    assert plain["asr"]["after"] > 0.9
    assert plain["isolated"] == 0
    assert plain["precision"] is None
    assert abl["asr"]["after"] < 0.2
    assert abl["poisoned"] == 90
    assert abl["precision"] > 0.9
    assert abl["recall"] > 0.9
    assert abs(abl["accuracy"]["after"] - plain["accuracy"]["after"]) < 0.06


def test_no_path_of_the_machine_stays_in_a_result(outcomes: Mapping[str, Mapping[str, Any]], desk: object) -> None:
    for outcome in outcomes.values():
        training = outcome["training"]
        assert training["data"]["path"] == desk[0]  # type: ignore[index]  # what the user typed
        assert training["output"] is None
        assert training["suspects"] is None


def test_the_table_comes_from_the_results_alone(
    outcomes: Mapping[str, Mapping[str, Any]], desk: tuple[str, str, str]
) -> None:
    made = [
        {
            "schema": SCHEMA,
            "job": {**vars(train_job(desk, trainer))},
            "outcome": outcome,
            "failure": None,
            "seconds": 1.0,
        }
        for trainer, outcome in outcomes.items()
    ]
    made.append({**made[0], "outcome": None, "failure": "exit status 3: no such image"})
    results = [read_result(value) for value in made]
    table = markdown(run_train.grids(results))
    assert table.count("badnets") == 3
    assert "failed: exit status 3" in table
    document = json.loads(json.dumps(run_train.figures(results, "bdscan bench train")))
    assert [each["failure"] is None for each in document["trainings"]] == [True, True, False]


def test_other_settings_are_other_work(desk: tuple[str, str, str]) -> None:
    one = train_job(desk, "abl")
    assert one.key == train_job(desk, "abl").key
    assert one.key != train_job(desk, "abl", rate=0.05).key
    assert one.key != train_job(desk, "abl", seed=1).key


def test_wrong_names_are_told_before_anything_is_trained(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    usual = ("bench", "train", "--data", "x", "--test", "y", "--arch", "wrn-10-1", "--results", str(tmp_path / "r"))
    for more, said in [
        (("--method", "ablation"), "no such method"),
        (("--set", "abl.wach=3"), "did you mean `watch`"),
        (("--plant", "badnet"), "did you mean `badnets`"),
        (("--no-clean",), "nothing to train on"),
    ]:
        status, _, err = bdscan(*usual, *more)
        assert status == 2
        assert said in err
    assert not (tmp_path / "r").exists()


def test_the_loop_is_timed_beside_a_bare_one() -> None:
    pace = measure_pace("wrn-10-1", 16, 16, torch.device("cpu"))
    assert 0.3 < pace.share < 1.5, "how near to one is for a quiet machine to say"
    assert pace.trained > 0
