"""The gate of docs/ci.md, from an empty repository on, and its recipes."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from conftest import ROOT
from test_action import ACTION
from test_readme import CI, TUTORIAL, printed_as_shown, shown

from bdscan.cli import app
from bdscan.cli.choices import Format, by_suffix
from bdscan.gate.provenance import digest

(POLICY,) = re.findall(r"```toml\n(.*?)```", CI, re.DOTALL)
(WORKFLOW,) = re.findall(r"```yaml\n(.*?)```", TUTORIAL, re.DOTALL)
STEPS = shown(TUTORIAL)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", CI, re.DOTALL)


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Where `bdscan` is the one that is tested, and `BDSCAN` the folder where it lies."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "bdscan"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m bdscan "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "BDSCAN": str(ROOT), "PATH": f"{program.parent}:{os.environ['PATH']}"}


def test_the_tutorial_sets_up_what_it_then_uses(tmp_path: Path, shell: dict[str, str]) -> None:
    """All but the scans, which take minutes."""
    quick = [each.command for each in STEPS if not each.command.startswith("bdscan")]
    subprocess.run(["bash", "-ec", "\n".join(quick)], cwd=tmp_path, env=shell, check=True)
    desk = tmp_path / "gate"
    assert (desk / "models" / "signs.pt").read_bytes() == (ROOT / "samples" / "models" / "clean.pt").read_bytes()
    (desk / "bdscan.toml").write_text(POLICY)
    workflow = yaml.safe_load(WORKFLOW)
    job = workflow["jobs"]["models"]
    given = job["steps"][-1]["with"]
    assert set(given) <= set(ACTION["inputs"])
    assert {name for name, each in ACTION["inputs"].items() if each.get("required")} <= set(given)
    assert all((desk / name).exists() for name in given.values())
    assert job["permissions"]["security-events"] == "write", "or nothing can be uploaded"
    watched = workflow[True]["pull_request"]["paths"]  # YAML 1.1 reads `on` as true
    assert {path.removesuffix("/**") for path in watched} == set(given.values())


@pytest.mark.slow
def test_the_gate_blocks_the_backdoored_model_and_lets_its_twin_pass(tmp_path: Path, shell: dict[str, str]) -> None:
    here = tmp_path
    for each in STEPS:
        asked = subprocess.run(["bash", "-c", each.command], cwd=here, env=shell, capture_output=True, text=True)
        assert asked.returncode == (each.status or 0), asked.stdout + asked.stderr
        printed_as_shown(each, asked.stdout + asked.stderr)
        if "cd gate" in each.command:
            here = tmp_path / "gate"
            (here / "bdscan.toml").write_text(POLICY)
    statement = json.loads((here / "signs.intoto.jsonl").read_text(encoding="utf-8"))
    assert statement["predicate"]["result"] == "PASSED"


def test_the_hosted_runner_checks_what_a_contributor_checks() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    assert "pull_request_target" not in text, "that would run a stranger's code with our rights"
    (job,) = workflow["jobs"].values()
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    (parts,) = re.findall(r"^check: (.*?) ##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert "\nmake -k check " in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in parts.split():
        assert any(step.get("run", "").startswith(f"make {part} ") for step in job["steps"]), part


def test_every_command_of_the_recipes_can_be_given() -> None:
    commands = re.findall(r"\bbdscan ((?:inspect|purify) [^\n'`]*)", re.sub(r"\n\s+--", " --", CI))
    assert len(commands) > 3
    for command in commands:
        verb, *words = shlex.split(command)
        known = {name for option in typer.main.get_command(app).commands[verb].params for name in option.opts}  # type: ignore[attr-defined]
        used = {word.partition("=")[0] for word in words if word.startswith("-") and word != "--"}
        assert used <= known, f"no such option: {used - known}"
        for option, file in pairwise(words):
            if option == "--output":
                assert by_suffix(Path(file)) is not Format.text, file


def test_the_configurations_are_yaml_and_keep_what_a_failed_job_found() -> None:
    read = [yaml.safe_load(block) for block in blocks("yaml")]
    (gitlab,) = (each["bdscan"] for each in read if "bdscan" in each)
    assert gitlab["cache"]["when"] == gitlab["artifacts"]["when"] == "always"
    written = re.findall(r"--output (\S+)", " ".join(gitlab["script"]))
    assert set(gitlab["artifacts"]["reports"].values()) <= set(written)
    (hooks,) = (each["repos"] for each in read if "repos" in each)
    manifest = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hooks[0]["hooks"][0]["id"] in {hook["id"] for hook in manifest}
    for each in read:
        for step in (step for job in each.get("jobs", {}).values() for step in job["steps"]):
            if step.get("uses", "").startswith("OWNER/bdscan"):
                assert set(step["with"]) <= set(ACTION["inputs"])


@pytest.mark.skipif(sys.platform != "linux", reason="xargs differs")
def test_a_folders_digest_is_what_the_command_prints(tmp_path: Path) -> None:
    (tmp_path / "clean" / "a b").mkdir(parents=True)
    (tmp_path / "clean" / "a b" / "1.png").write_bytes(b"one")
    (tmp_path / "clean" / "a.png").write_bytes(b"two")
    (command,) = re.findall(r"`(cd clean && find [^`]+)`", CI)
    printed = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert digest(tmp_path / "clean") == {"dirHash": printed.split()[0]}


def test_the_registry_recipe_asks_for_the_version_that_was_registered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = blocks("python")
    event: dict[str, Any] = {"entity": "model_version", "action": "created"}
    event["data"] = {"name": "signs; touch pwned", "version": "3", "source": "models:/m-1"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(event)))
    asked: list[list[str]] = []

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit) as left:
        exec(compile(recipe, "recipe", "exec"), {})
    assert left.value.code == 1
    assert asked[0][:2] == ["bdscan", "inspect"]
    assert asked[0][-2:] == ["--", "models:/signs; touch pwned/3"]
    assert len([line for line in recipe.splitlines() if line]) == 5
