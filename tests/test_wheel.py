"""The wheel as a user installs it: everything that is needed lies in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from bdscan import __version__
from bdscan.method.registry import ROOMS, names

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the work tree stays as it is."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "bdscan", source / "bdscan", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target, source], check=True
    )
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


def run(installed: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *words], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_everything_is_in_it(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    kept = {".py", ".json", ".css", ".html", ".typed", ".js"}
    needed = {
        str(p.relative_to(ROOT)) for p in (ROOT / "bdscan").rglob("*") if p.suffix in kept or p.name == "py.typed"
    }
    assert needed <= packed
    assert not [name for name in packed if name.startswith(("tests", "samples"))]


def test_it_is_the_installed_one_that_runs(installed: Path) -> None:
    assert Path(run(installed, "-c", "import bdscan; print(bdscan.__file__)").strip()).is_relative_to(installed)
    assert run(installed, "-m", "bdscan", "--version").strip() == f"bdscan {__version__}"


def test_it_lists_every_method(installed: Path) -> None:
    listed = run(installed, "-m", "bdscan", "methods")
    assert all(f"  {name}" in listed for room in ROOMS for name in names(room))


def test_it_offers_the_console_script(installed: Path) -> None:
    assert (installed / "bin" / "bdscan").exists()
