"""The GitHub Action: its steps are run as GitHub runs them, but for those that are other people's actions."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import ROOT, SAMPLES
from test_sarif import VALIDATOR as SARIF

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
FAST = "--probe artifact"


@dataclass
class Job:
    """One use of the action: what went in, and what GitHub would know afterwards."""

    home: Path
    workspace: Path
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)  # step id -> its outputs
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # other actions, and what they were given
    failed: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def summary(self) -> str:
        return (self.home / "summary.md").read_text(encoding="utf-8")

    def result(self, name: str) -> Any:
        return self.value(ACTION["outputs"][name]["value"])

    def value(self, text: str) -> str:
        """With every `${{ }}` in it worked out."""
        return EXPRESSION.sub(lambda found: str(self._worked_out(found[1])), text)

    def wanted(self, step: Mapping[str, Any]) -> bool:
        found = EXPRESSION.fullmatch(step.get("if", "${{ success() }}"))
        assert found, step["if"]
        said = found[1]
        return bool(self._worked_out(said)) and (not self.failed or "cancelled()" in said or "always()" in said)

    def _worked_out(self, expression: str) -> Any:
        github = {"run_id": "7", "run_attempt": "1", "job": "gate", "action": "bdscan"}
        known = {"inputs": self.inputs, "github": github, "strategy": {"job-index": "0"}}
        known["runner"] = {"os": "Linux", "temp": str(self.home)}

        def looked_up(found: re.Match[str]) -> str:
            names = found[0].split(".")
            if names[0] == "steps":
                return repr(self.outputs.get(names[1], {}).get(names[3], ""))
            return repr(known[names[0]][names[1]])

        python = expression.replace("&&", " and ").replace("||", " or ").replace("!cancelled", "not cancelled").strip()
        python = re.sub(r"\b(?:inputs|github|runner|steps|strategy)(?:\.[\w-]+)+", looked_up, python)
        calls = {"cancelled": lambda: False, "always": lambda: True, "success": lambda: not self.failed}
        return eval(python, {"__builtins__": {}}, calls)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The action as GitHub checks it out."""
    folder = tmp_path_factory.mktemp("action")
    for name in ("bdscan", "ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("action.yml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where torch and its like are found without a network, but bdscan is not."""
    outer = tmp_path_factory.mktemp("outer")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "bdscan" not in entry.name and entry.suffix != ".pth":
            (outer / entry.name).symlink_to(entry)
    home = tmp_path_factory.mktemp("runner")
    inner = home / "bdscan" / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    inner.mkdir(parents=True)
    (inner / "outer.pth").write_text(f"{outer}\n")
    return home


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Path]:
    """A repository with a model in it, and with what Python would import if it looked there."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "models").mkdir()
    shutil.copy(SAMPLES / "models" / "clean.pt", tmp_path / "models")
    for name in ("venv", "pip", "json", "torch", "bdscan"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    yield tmp_path
    assert not (tmp_path / "pwned").exists(), "something of the repository was run"


def evil(path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    path.write_bytes(pickle.dumps(Payload()))


def use(checkout: Path, home: Path, workspace: Path, **given: str) -> Job:
    """The action's steps, one after the other."""
    defaults = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
    job = Job(home, workspace, {**defaults, **{name.replace("_", "-"): value for name, value in given.items()}})
    for name in ("summary.md", "output"):
        (home / name).write_text("")
    shutil.rmtree(home / "bdscan" / "cache", ignore_errors=True)
    there = (home / "bdscan" / "venv" / "bin" / "bdscan").exists()
    for step in STEPS:
        if job.wanted(step) and not (there and step.get("name") == "Install bdscan"):
            _step(job, checkout, step)
    return job


def _step(job: Job, checkout: Path, step: Mapping[str, Any]) -> None:
    if "uses" in step:
        job.used.append((step["uses"], {name: job.value(str(value)) for name, value in step["with"].items()}))
        job.outputs[step.get("id", "")] = {"python-path": sys.executable}
        return
    script = job.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "OMP_NUM_THREADS"}},
        **{name: job.value(value) for name, value in step.get("env", {}).items()},
        "GITHUB_ACTION_PATH": str(checkout),
        "GITHUB_STEP_SUMMARY": str(job.home / "summary.md"),
        "GITHUB_OUTPUT": str(job.home / "output"),
        "RUNNER_TEMP": str(job.home),
        # no network in tests: what is there already will do
        **{"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"},
    }
    assert step["shell"] == "bash"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]  # GitHub's own
    done = subprocess.run(command, cwd=job.workspace, env=environment, capture_output=True, text=True)
    job.log += done.stdout + done.stderr
    if "id" in step:
        lines = (job.home / "output").read_text(encoding="utf-8").splitlines()
        job.outputs[step["id"]] = dict(line.split("=", 1) for line in lines)
    if done.returncode:
        job.failed.append(step["name"])


def test_no_input_is_written_into_a_command() -> None:
    for step in STEPS:
        assert "${{" not in step.get("run", ""), "a file's name could be a command"


def test_other_peoples_actions_are_pinned() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    for name in used:
        assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", name), name
    lines = re.findall(r"uses: .*", (ROOT / "action.yml").read_text(encoding="utf-8"))
    assert all(re.search(r"# v\d+\.\d+\.\d+$", line) for line in lines), "and say which version that is"


def test_inputs_and_outputs_are_those_that_are_used() -> None:
    text = json.dumps(STEPS)
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert all(each["description"] for each in (*ACTION["inputs"].values(), *ACTION["outputs"].values()))
    sys.path.insert(0, str(ROOT / "ci"))
    try:
        import gate
    finally:
        sys.path.pop(0)
    told = {each["value"] for each in ACTION["outputs"].values()}
    assert told == {f"${{{{ steps.gate.outputs.{name} }}}}" for name in ("status", *gate.FILES) if name != "summary"}
    assert {f"INPUT_{name.upper().replace('-', '_')}" for name in gate.OPTIONS} <= set(_gate()["env"])


def _gate() -> dict[str, Any]:
    return next(step for step in STEPS if step.get("id") == "gate")


def test_a_bad_model_fails_the_job_after_everything_was_written(checkout: Path, installed: Path, desk: Path) -> None:
    evil(desk / "models" / "evil.pt")
    job = use(checkout, installed, desk, models="models", args=FAST)
    assert job.failed == ["Pass the verdict on"], job.log
    assert job.result("status") == "1"
    assert [name.partition("@")[0] for name, _ in job.used] == [
        "actions/setup-python",
        "actions/cache/restore",
        "actions/cache/save",
        "github/codeql-action/upload-sarif",
    ]
    uploaded = job.used[-1][1]
    log = json.loads(Path(uploaded["sarif_file"]).read_text(encoding="utf-8"))
    SARIF.validate(log)
    (dangerous,) = (each for each in log["runs"][0]["results"] if each["ruleId"] == "dangerous-file")
    location = dangerous["locations"][0]["physicalLocation"]["artifactLocation"]
    assert location == {"uri": "models/evil.pt", "uriBaseId": "%SRCROOT%"}
    assert uploaded["category"] == "bdscan"
    assert "evil.pt" in job.summary
    assert job.summary.startswith("### bdscan: 2 models")
    schema = json.loads((ROOT / "bdscan" / "report" / "schema.json").read_text(encoding="utf-8"))
    for line in Path(job.result("json")).read_text(encoding="utf-8").splitlines():
        jsonschema.validate(json.loads(line), schema)
    statements = Path(job.result("attestation")).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["predicate"]["result"] for line in statements} == {"FAILED"}
    assert json.loads(Path(job.result("sbom")).read_text(encoding="utf-8"))["bomFormat"] == "CycloneDX"
    assert job.used[1][1]["key"].startswith(job.used[1][1]["restore-keys"])
    assert list((installed / "bdscan" / "cache").iterdir()), "what is saved is there"


def test_a_clean_model_passes(checkout: Path, installed: Path, desk: Path) -> None:
    """In a hurry: every probe of that effort, but with few steps; what that is worth the report says."""
    clean, policy = str(SAMPLES / "images"), desk / "bdscan.toml"
    policy.write_text('require = ["head"]\nminimum-clean-accuracy = 0.9\n')
    given = {
        "models": "\nmodels/*.pt\n\n",
        "clean": clean,
        "policy": "bdscan.toml",
        "args": "--effort 'fast' --set inversion.steps=5",
    }
    job = use(checkout, installed, desk, **given, upload="false", cache="false")
    assert not job.failed, job.log
    assert job.result("status") == "0"
    assert [name.partition("@")[0] for name, _ in job.used] == ["actions/setup-python"]
    assert not (installed / "bdscan" / "cache").exists()
    assert "### bdscan: clean" in job.summary
    job = use(checkout, installed, desk, models="models", fail_on="grave", upload="false")
    assert (job.result("status"), job.failed) == ("2", ["Pass the verdict on"])
    assert job.result("sarif") == "", "that of the scan before is gone"
    assert "wrong usage" in job.summary


def test_names_are_names_and_never_commands(checkout: Path, installed: Path, desk: Path) -> None:
    names = ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "--exit-zero", '"&& touch pwned', "a b.pt"]
    job = use(checkout, installed, desk, models="\n".join(names), args=f"{FAST} --seed '1'", clean="$(touch pwned)")
    assert job.result("status") == "3", job.log
    told = [json.loads(line) for line in Path(job.result("json")).read_text(encoding="utf-8").splitlines()]
    assert [each["subject"]["path"] for each in told] == names
