"""The probe that CONTRIBUTING.md shows, dropped into a copy of the package: listed, run and held to the contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_readme import EXAMPLE, shown
from test_readme import EXAMPLE_FILE as FILE

(SOURCE,) = re.findall(r"```python\n(.*?)```", EXAMPLE, re.DOTALL)
NAME = Path(FILE).stem


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is needed, with the example in it."""
    home = tmp_path_factory.mktemp("house")
    for folder in ("bdscan", "tests"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "samples").symlink_to(ROOT / "samples")
    shutil.copy(ROOT / "pyproject.toml", home)
    (home / FILE).write_text(SOURCE, encoding="utf-8")
    return home


def run(house: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(house)}
    done = subprocess.run([sys.executable, "-m", *words], cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # one probe alone may well be inconclusive
    return done.stdout


def test_its_commands_work(house: Path) -> None:
    commands = [each.command for each in shown(EXAMPLE) if not each.command.startswith("make ")]
    assert len(commands) == 2
    printed = [run(house, *command.split()) for command in commands]
    assert printed[0].startswith(SOURCE[3:].partition("\n")[0])
    assert NAME in run(house, "bdscan", "methods")
    assert "evidence only" in " ".join(printed[1].split())


def test_it_keeps_the_contract(house: Path) -> None:
    printed = run(house, "pytest", "-p", "no:cacheprovider", "tests/test_contracts.py", "-k", NAME)
    assert re.search(r"\b\d+ passed", printed), printed
    assert "failed" not in printed


def test_it_is_written_as_the_house_is(house: Path) -> None:
    for check in (("check",), ("format", "--check")):
        assert run(house, "ruff", *check, FILE), FILE
