"""The corpus of files that lie: what is said to run runs in its loader, nothing runs in bdscan, and each is told."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import ROOT

from bdscan.facts.problem import Problem
from bdscan.load.assembly.assemble import load
from bdscan.load.contents import survey
from bench.hostile.recipe import Kind, Loader, Recipe
from bench.hostile_files import LOADERS, RECIPES, HostileFile, write
from bench.scanners import Outcome, bdscan_outcome

MEMORY = 12 << 30  # bytes of address space: what is careless with a bomb ends there
BY_NAME = {recipe.name: recipe for recipe in RECIPES}
BOMBS = [recipe.name for recipe in RECIPES if recipe.kind is Kind.BOMB]
SECONDS = 30  # for a bomb, all told: importing torch takes a machine with other things to do a third of them


def written(folder: Path, recipes: Iterable[Recipe]) -> dict[str, HostileFile]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forms that are out of date, which is what they are made in
        return {file.name: file for file in write(folder / "files", folder / "canary", tuple(recipes))}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HostileFile]:
    return written(tmp_path_factory.mktemp("corpus"), (each for each in RECIPES if each.kind is not Kind.BOMB))


def inspected(paths: list[str], seconds: float, probe: str = "artifact") -> dict[str, Outcome]:
    """What `inspect` says of each, all in one go, so that none may silence another."""
    command = [sys.executable, "-m", "bdscan", "inspect", *paths, "--probe", probe, "--format", "json"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bounded, env=settings, timeout=seconds)
    assert done.returncode in (1, 3), done.stderr
    # One report is written out over many lines, several take one each.
    lines = done.stdout.splitlines() if len(paths) > 1 else [done.stdout]
    told = {json.loads(line)["subject"]["path"]: bdscan_outcome(line) for line in lines if line}
    return {path: gravest([said for place, said in told.items() if Path(place).is_relative_to(path)]) for path in paths}


def gravest(said: list[Outcome]) -> Outcome:
    """Of all that was found in a folder."""
    return next((each for each in (Outcome.FLAGGED, Outcome.REFUSED, Outcome.CLEAN) if each in said), Outcome.SKIPPED)


@pytest.fixture(scope="session")
def outcomes(corpus: dict[str, HostileFile]) -> dict[str, Outcome]:
    places = {str(file.path): name for name, file in corpus.items()}
    return {places[path]: outcome for path, outcome in inspected(list(places), 120).items()}


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def allowed(name: str) -> set[Outcome]:
    recipe = BY_NAME[name]
    right = Outcome.CLEAN if recipe.kind is Kind.HONEST else Outcome.FLAGGED
    return {right, Outcome.REFUSED} if recipe.refusable else {right}


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in BOMBS])
def test_each_file_is_told_for_what_it_is(
    name: str, outcomes: dict[str, Outcome], corpus: dict[str, HostileFile]
) -> None:
    outcome = outcomes[name]
    if outcome is Outcome.CLEAN and Outcome.CLEAN not in allowed(name):  # what the file hides may be in its net
        outcome = Outcome.REFUSED if doubtful(corpus[name].path) else outcome
    assert outcome in allowed(name), BY_NAME[name].truth


def doubtful(path: Path) -> bool:
    """Whether the net cannot be loaded, or nobody can be sure that it is the one that others load."""
    try:
        return bool(load(survey(path), normalize="none").doubts)
    except Problem:
        return True


def test_nothing_runs_while_it_is_looked_at(outcomes: dict[str, Outcome], corpus: dict[str, HostileFile]) -> None:
    assert Outcome.SKIPPED not in outcomes.values()
    assert [file.name for file in corpus.values() if file.canary.exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_told_in_time(name: str, tmp_path: Path) -> None:
    """Also where it only goes off when the net is loaded."""
    path = str(written(tmp_path, [BY_NAME[name]])[name].path)
    assert inspected([path], SECONDS, probe="head")[path] in allowed(name), BY_NAME[name].truth


# Several loaders take seconds to import: each is imported once, and opens every file in a child of its own.
OPENING = """
import os, sys, warnings
warnings.simplefilter("ignore")
source, *paths = sys.argv[1:]
exec(source.partition(";")[0].partition("\\n")[0])
for path in paths:
    child = os.fork()
    if not child:
        try:
            exec(source)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("loader", Loader)
def test_what_is_said_to_run_runs(loader: Loader, tmp_path: Path, corpus: dict[str, HostileFile]) -> None:
    module = LOADERS[loader].split()[1].strip(";").partition(".")[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not here to run it")
    files = [file for file in corpus.values() if file.recipe.loader is loader]
    command = [sys.executable, "-c", OPENING, LOADERS[loader], *(str(file.path) for file in files)]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=300)
    dead = [file.name for file in files if not file.canary.exists()]
    for file in files:
        file.canary.unlink(missing_ok=True)
    assert files and dead == []
