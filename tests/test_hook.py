"""The pre-commit hook, run by pre-commit itself."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, SAMPLES

from bdscan.load.source import gather

HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
CONFIG = """
repos:
- repo: {repo}
  rev: {rev}
  hooks:
  - id: bdscan
    args: [--clean, images, --probe, head, --cache, .git/bdscan]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hooks are installed without a network: what bdscan stands on is found where the tests found it."""
    outer = tmp_path_factory.mktemp("outer")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "bdscan" not in entry.name and entry.suffix != ".pth":
            (outer / entry.name).symlink_to(entry)
    author = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_CONFIG_GLOBAL": os.devnull}
    author |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c", "GIT_CONFIG_SYSTEM": os.devnull}
    without = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    home = {"PRE_COMMIT_HOME": str(tmp_path_factory.mktemp("pre-commit")), "PYTHONPATH": str(outer)}
    return {**os.environ, **author, **without, **home}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """bdscan's own repository, with the files as they are."""
    folder = tmp_path_factory.mktemp("repo")
    shutil.copytree(ROOT / "bdscan", folder / "bdscan", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".pre-commit-hooks.yaml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return committed(folder, environment)


@pytest.fixture
def desk(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A user's repository: a model, images to trust, and a file that is no model."""
    shutil.copytree(SAMPLES / "images", tmp_path / "images")
    shutil.copy(SAMPLES / "models" / "clean.pt", tmp_path / "net.pt")
    (tmp_path / "notes.txt").write_text("nothing here")
    return committed(tmp_path, environment)


def committed(folder: Path, environment: dict[str, str]) -> Path:
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "all")):
        subprocess.run(["git", *words], cwd=folder, env=environment, check=True)
    return folder


def pre_commit(desk: Path, environment: dict[str, str], *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pre_commit", *words, "--color=never"]
    done = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_pre_commit_takes_the_manifest() -> None:
    manifest = str(ROOT / ".pre-commit-hooks.yaml")
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-manifest", manifest], check=True)
    (hook,) = HOOKS
    assert hook["id"] == "bdscan"
    assert hook["language"] == "python"
    assert all(re.search(hook["files"], f"nets/a{suffix}") for suffix in gather.MODEL_SUFFIXES)
    assert not re.search(hook["files"], "nets/script.py")
    assert hook["require_serial"], "else several processes at once, and the exit of each by itself"


@pytest.mark.slow
def test_a_dangerous_model_cannot_be_committed(repo: Path, desk: Path, environment: dict[str, str]) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    (desk / "evil.pt").write_bytes(pickle.dumps(Payload()))
    asked = ("try-repo", str(repo), "bdscan", "--verbose", "--files")
    status, out = pre_commit(desk, environment, *asked, "evil.pt", "notes.txt")
    assert status == 1, out
    assert "exit code: 1" in out
    assert "verdict   backdoored" in out
    assert "notes.txt" not in out
    status, out = pre_commit(desk, environment, *asked, "notes.txt")
    assert (status, "Skipped" in out) == (0, True), out


@pytest.mark.slow
def test_a_model_passes_by_the_users_own_arguments(repo: Path, desk: Path, environment: dict[str, str]) -> None:
    """By one probe alone, which takes seconds; the second time by the cache."""
    at = ["git", "rev-parse", "HEAD"]
    rev = subprocess.run(at, cwd=repo, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    (desk / ".pre-commit-config.yaml").write_text(CONFIG.format(repo=repo, rev=rev))
    for said in ("verdict   clean", "unchanged, the report is from the cache"):
        status, out = pre_commit(desk, environment, "run", "--verbose", "--files", "net.pt", "notes.txt")
        assert status == 0, out
        assert said in out
