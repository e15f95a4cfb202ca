"""`bdscan bench table`: from small result files to tables, with other people's figures marked as theirs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bdscan.bench.commands import app
from bdscan.bench.labels import ModelKind
from bdscan.bench.tables.bench_tables import grids, published, sources
from bdscan.bench.tables.grid import COLUMNS, Grid, html, long_csv, markdown
from bdscan.bench.tables.result_files import compact_json, gather
from bdscan.bench.workers import jobs
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry

MADE = {"bdscan": "1", "torch": "2", "python": "3"}


def put(folder: Path, method: str, name: str, outcome: dict[str, Any] | None, **told: Any) -> None:
    """One result file."""
    job = {"name": name, "method": method, "model": f"models/{name}.safetensors", "seed": 0, **told}
    key = "-".join(str(part) for part in (method, name, *told.values()))
    result = {
        "schema": jobs.SCHEMA,
        "key": key,
        "job": job,
        "command": f"bdscan bench {method}",
        "seconds": 9.0,
        "failure": None if outcome else "exit status 4: out of memory",
        "outcome": outcome and {**outcome, "made_with": MADE},
    }
    folder.joinpath(f"{key}.json").write_text(json.dumps(result))


def label(attack: str | None, acc: float, asr: float | None) -> dict[str, Any]:
    return {"label": {"attack": attack, "rate": 0.1 if attack else 0, "target": 3, "acc": acc, "asr": asr}}


def looked(p: float, verdict: str) -> dict[str, Any]:
    finding = {"message": "long words", "p_value": None, "per_class": {"p_values": [0.5, p], "scores": [1, 2]}}
    run = {"probe": "margin", "seconds": 2.0, "failure": None, "findings": [finding], "settings": {"steps": 3}}
    report = {"verdict": verdict, "p_value": p, "target": 3, "runs": [run], "subject": {"path": "x"}}
    return {"report": report, "passes": 100, "gradients": 50}


def cured(acc: float, asr: float | None) -> dict[str, Any]:
    pair = {"before": 0.9, "after": acc}
    treatment = {
        "method": "nba",
        "seconds": 5.0,
        "verdict": {"before": "backdoored", "after": "clean"},
        "checks": [{"name": "reinversion", "passed": True, "message": "long words"}],
    }
    measured = {
        "on": "test",
        "images": 100,
        "trigger": None if asr is None else "plant blend",
        "target": 3,
        "accuracy": pair,
        "asr": asr if asr is None else {"before": 1.0, "after": asr},
        "ra": asr if asr is None else {"before": 0.0, "after": 0.8},
        "der": asr if asr is None else (1 - asr - (0.9 - acc) + 1) / 2,
        "seconds": {"purify": 5.0, "all": 60.0},
    }
    return {"refused": None, "report": {**looked(1, "clean")["report"], "treatment": treatment}, "measured": measured}


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Two blends, a patch that half worked, two controls; inspected, and purified by two methods."""
    put(tmp_path, "plant", "blend-0", label("blend", 0.9, 1.0))
    put(tmp_path, "plant", "blend-1", label("blend", 0.8, 0.9))
    put(tmp_path, "plant", "patch-0", label("badnets", 0.9, 0.5))
    for number in (0, 1):
        put(tmp_path, "plant", f"clean-{number}", label(None, 0.91, None))
        put(tmp_path, "inspect", f"clean-{number}", looked(0.3 + number / 10, "clean"))
        put(tmp_path, "inspect", f"blend-{number}", looked(1e-6, "backdoored"))
        put(
            tmp_path,
            "purify",
            f"blend-{number}",
            cured(0.88 - number / 10, 0.02 + number / 5),
            purifier="nba",
            images=500,
        )
    put(tmp_path, "purify", "blend-0", cured(0.7, 0.9), purifier="finetune", images=None)
    put(tmp_path, "purify", "clean-0", cured(0.89, None), purifier="nba", images=500)
    put(tmp_path, "inspect", "patch-0", None)
    (tmp_path / "other.json").write_text('["not", "ours"]')
    return tmp_path


def grid(found: list[Grid], title: str) -> dict[str, dict[str, str]]:
    """A table's rows by their first cell."""
    (one,) = [grid for grid in found if grid.title.startswith(title)]
    return {row[0]: dict(zip(one.columns, row, strict=True)) for row in one.rows}


def test_mean_and_worst_of_each_trigger(shelf: Path) -> None:
    rows = grid(grids(gather([shelf])), "Each trigger")
    nba = rows["blend, nba"]
    assert (nba["nets"], nba["images"], nba["from"]) == ("2", "500", "here")
    assert (nba["ACC"], nba["ACC after"], nba["worst loss"]) == ("90.0", "83.0", "12.0")
    assert (nba["ASR"], nba["ASR after"], nba["worst ASR"]) == ("100.0", "12.0", "22.0")
    assert (nba["RA after"], nba["DER"], nba["worst DER"], nba["seconds"]) == ("80.0", "0.905", "0.830", "60")
    assert rows["blend, finetune"]["worst ASR"] == "90.0" and rows["blend, finetune"]["images"] == "all"
    assert not any(name.startswith("badnets") for name in rows), "a trigger that half worked is in no figure"


def test_other_peoples_figures_stand_below_and_are_marked(shelf: Path) -> None:
    (table,) = [grid for grid in grids(gather([shelf])) if grid.title.startswith("Each trigger")]
    places = [row[-1].partition(":")[0] for row in table.rows]
    assert places == ["here", "here", *["published"] * 4]
    theirs = {row[0]: row for row in table.rows}["blend, NAD"]
    assert theirs[3:8] == ("93.5", "92.2", "-", "99.9", "97.7") and "PreActResNet-18, 10%" in theirs[-1]
    named = grid(grids(gather([shelf])), "Where the published")
    assert list(named) == ["BackdoorBench leaderboard of June 2025"]


def test_nets_and_probes(shelf: Path) -> None:
    found = grids(gather([shelf]))
    nets = grid(found, "Nets")
    assert (nets["blend"]["backdoored"], nets["blend"]["lowest ASR"]) == ("2", "90.0")
    assert (nets["badnets"]["left out"], nets["clean"]["controls"]) == ("1", "2")
    assert grid(found, "Each measure")["margin"]["AUC"].startswith("1.000")
    (models,) = [grid for grid in found if grid.title == "Each model"]
    assert [row[5] for row in models.rows if row[0] == "patch-0"] == ["failed: exit status 4: out of memory"]
    made = grid(found, "How it was made")
    assert made["bdscan bench purify"]["results"] == "4"
    assert made["bdscan bench purify"]["with"] == "bdscan 1, torch 2, python 3"


def test_one_small_file_holds_all_that_the_tables_need(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = gather([shelf])
    kept = tmp_path_factory.mktemp("kept") / "all.json"
    kept.write_text(compact_json(found))
    assert "long words" not in kept.read_text()
    again = gather([kept])
    assert markdown(grids(again)) == markdown(grids(found))
    assert [label.kind for label in again.labels] == [label.kind for label in found.labels]
    assert markdown(grids(gather([kept, shelf]))) == markdown(grids(found)), "each result counts once"


def test_truth_comes_from_labels_or_from_what_was_measured(tmp_path: Path) -> None:
    put(tmp_path, "purify", "a", cured(0.8, 0.1), purifier="nba", images=None)
    put(tmp_path, "inspect", "b", looked(0.2, "clean"))
    found = gather([tmp_path])
    assert [(each.name, each.attack, each.kind) for each in found.labels] == [("a", "blend", ModelKind.BACKDOORED)]
    assert found.unlabelled == ("b",)
    (tmp_path / "b.json").write_text(json.dumps(label(None, 0.9, None)["label"]))
    assert gather([tmp_path]).unlabelled == ()


def test_trainings_are_shown_beside_those_of_others(tmp_path: Path) -> None:
    only = {"before": None, "after": 0.85}
    measured = {
        "accuracy": only,
        "asr": {"before": None, "after": 0.03},
        "isolated": 9,
        "precision": 1.0,
        "recall": 0.9,
    }
    training = {"isolation": {"p_value": 1e-9, "histogram": [1, 2]}, "losses": "long words"}
    outcome = {"measured": measured, "training": training, "verdict": "clean", "seconds": {"train": 7.0}}
    put(tmp_path, "train", "a", outcome, trainer="abl", plant="badnets", settings=[], rate=0.1)
    found = gather([tmp_path])
    assert grid(grids(found), "Training on data")["badnets"]["ACC"] == "85.0"
    (theirs,) = [table for table in grids(found) if table.title.startswith("Training, as published")]
    assert [(row[0], row[7]) for row in theirs.rows] == [("badnets, ABL", "0.0"), ("badnets, ABL", "3.0")]
    kept = tmp_path / "kept.json"
    kept.write_text(compact_json(found))
    assert "long words" not in kept.read_text()
    assert markdown(grids(gather([kept]))) == markdown(grids(found))


def test_published_figures_are_whole() -> None:
    plants = registry.names("plant")
    for figure in published():
        assert figure.attack in plants
        assert figure.room in ("purify", "train")
        assert 0 < figure.rate <= 1
        assert all(0 <= value <= 1 for value in (*figure.accuracy, *figure.asr))
        assert figure.source.where and figure.source.net and figure.source.data
    assert len({(f.source.title, f.method, f.attack, f.rate) for f in published()}) == len(published())
    (nad,) = [f for f in published() if (f.method, f.attack) == ("NAD", "badnets")]
    assert nad.der == pytest.approx((0.95 - 0.021 - (0.913 - 0.899) + 1) / 2)
    assert sources(["tact"]) == []


def test_forms() -> None:
    table = Grid("A < B", ("name", "figure", "from"), (("x, y", "1.0", "here"), ("<z>", "2.0", "published: there")))
    page = html([table])
    assert "A &lt; B" in page and "&lt;z&gt;" in page and page.count('<tr class="published">') == 1
    assert "<script" not in page and "http:" not in page and "https:" not in page
    rows = list(csv.reader(long_csv([table]).splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert rows[1] == ["A < B", "x, y", "figure", "1.0"] and len(rows) == 5


def test_the_command(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    names = [out / f"tables{suffix}" for suffix in (".md", ".html", ".csv", ".json")]
    words = [word for name in names for word in ("--output", str(name))]
    done = CliRunner().invoke(app, ["table", str(shelf), *words])
    assert done.exit_code == 0, done.output
    assert names[0].read_text().startswith("## Nets") and names[1].read_text().startswith("<!doctype html>")
    assert json.loads(names[3].read_text())["schema"] == "bdscan.bench.results/1"
    shown = CliRunner().invoke(app, ["table", str(names[3])])
    assert "blend, nba" in shown.output and "published: PreActResNet-18" in shown.output


@pytest.mark.parametrize("words", [["nowhere"], ["."], [".", "--output", "x.pdf"], [".", "--output", "no/x.md"]])
def test_what_cannot_be_done_is_told_at_once(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["table", *words])
    assert isinstance(done.exception, Problem) and done.exception.status == USAGE
