"""What a policy asks for, what it lets pass and for how long, and that no typing mistake in one goes unseen."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from dataclasses import replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import SAMPLES
from test_report import backdoored, bare
from test_sarif import log

from bdscan.cli.choices import FailOn
from bdscan.cli.exit_status import status_of
from bdscan.facts.failure import Failure
from bdscan.facts.finding import Judgement, Run, Verdict
from bdscan.facts.problem import Problem
from bdscan.gate.policy import Policy, read_policy
from bdscan.report import FORMATS, Acceptance, Report, render

TODAY = date(2026, 5, 5)
CLEAN = str(SAMPLES / "models" / "clean.pt")
WHY = "the demo needs a bad model"


def acceptance(sha256: str = "ab" * 32, expires: date = TODAY) -> Acceptance:
    return Acceptance(sha256=sha256, reason=WHY, expires=expires)


def clean(**changes: object) -> Report:
    runs = (Run(probe="artifact"), Run(probe="head", failure=Failure.refused("it broke")))
    report = replace(bare(), judgement=Judgement(verdict=Verdict.CLEAN), runs=runs, clean_accuracy=0.8)
    return replace(report, **changes)  # type: ignore[arg-type]


def status(policy: Policy, report: Report) -> int:
    return status_of(policy.applied(report, TODAY), FailOn.suspicious)


def written(folder: Path, text: str) -> Path:
    (folder / "bdscan.toml").write_text(text, encoding="utf-8")
    return folder / "bdscan.toml"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload()))
    return tmp_path / "evil.pt"


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    text = f"""
        fail-on = "backdoored"
        effort = "fast"
        budget = 60
        require = ["head", "artifact"]
        minimum-clean-accuracy = 0.9
        [[accept]]
        sha256 = "{"AB" * 32}"
        reason = "{WHY}"
        expires = 2026-05-05
    """
    assert read_policy(written(tmp_path, text)) == Policy(
        fail_on="backdoored",
        effort="fast",
        budget=60,
        require=("head", "artifact"),
        minimum_clean_accuracy=0.9,
        accept=(acceptance(),),
    )
    assert read_policy(written(tmp_path, "")) == Policy()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('fail_on = "backdoored"', "no such key: `fail_on`, did you mean `fail-on`?"),
        ("zzz = 1", "no such key: `zzz`, there are `fail-on`, "),
        ('fail-on = "backdored"', "no such `fail-on`: `backdored`, did you mean `backdoored`?"),
        ("effort = 3", "`effort` takes one of fast, standard, thorough, not `3`"),
        ('budget = "60"', "`budget` takes a number, not `60`"),
        ("budget = true", "`budget` takes a number"),
        ("budget = -1", "must not be below 0"),
        ("budget = nan", "must not be below 0"),
        ("minimum-clean-accuracy = 90", "a share from 0 to 1, such as 0.9, not 90"),
        ('require = ["inverson"]', "no such probe: `inverson`, did you mean `inversion`?"),
        ('require = "head"', "`require` takes a list of probes"),
        ("accept = 1", "under `[[accept]]`"),
        ('[accept]\nreason = "x"', "under `[[accept]]`"),
        ('[[accept]]\nsha = "x"', "no such key of an acceptance: `sha`, did you mean `sha256`?"),
        ('[[accept]]\nreason = "x"', "an acceptance needs `sha256`, `expires`"),
        (f'[[accept]]\nsha256 = "{"ab" * 32}"\nreason = " "\nexpires = 2026-05-05', "`reason` takes a sentence"),
        (f'[[accept]]\nsha256 = "{"ab" * 32}"\nreason = "x"\nexpires = "2026-05-05"', "a date without quotes"),
        (f'[[accept]]\nsha256 = "{"ab" * 32}"\nreason = "x"\nexpires = 2026-05-05T07:32:00Z', "a date without quotes"),
        ('[[accept]]\nsha256 = "d66e"\nreason = "x"\nexpires = 2026-05-05', "64 hexadecimal digits"),
        ("budget = ", "is not TOML"),
    ],
)
def test_a_mistake_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(Problem) as told:
        read_policy(written(tmp_path, text))
    assert told.value.status == 2
    assert said in told.value.message
    assert "\n" not in told.value.message


def test_a_policy_that_is_not_there_stops_everything(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    code, out, err = bdscan("inspect", CLEAN, "--policy", str(tmp_path / "none.toml"))
    assert (code, out) == (2, "")
    assert "cannot be read: No such file" in err
    (tmp_path / "latin.toml").write_bytes(b"# \xe4")
    assert bdscan("inspect", CLEAN, "--policy", str(tmp_path / "latin.toml"))[0] == 2


def test_none_is_picked_up_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    written(tmp_path, "nonsense = 1")
    monkeypatch.chdir(tmp_path)
    assert bdscan("inspect", CLEAN, "--probe", "artifact")[0] == 3


def test_too_low_an_accuracy_is_a_finding_and_none_is_no_answer() -> None:
    policy = Policy(minimum_clean_accuracy=0.9)
    assert status(policy, clean()) == 1
    assert status(policy, clean(clean_accuracy=0.9)) == 0
    assert status(policy, clean(clean_accuracy=None)) == 3
    assert status(Policy(), clean()) == 0
    told = policy.applied(clean(), TODAY)
    for form in FORMATS:
        assert "at least 90.0%, and it is 80.0%" in render(told, form)
    assert [result["ruleId"] for result in log(told)["results"]] == ["refused-by-policy"]
    assert ElementTree.fromstring(render(told, "junit")).get("failures") == "1"


def test_a_required_probe_must_have_run_to_its_end() -> None:
    assert status(Policy(require=("artifact",)), clean()) == 0
    for name, why in (("head", "failed: it broke"), ("linf", "did not run")):
        told = Policy(require=(name,)).applied(clean(), TODAY)
        assert status_of(told, FailOn.suspicious) == 3
        assert why in " ".join(told.unmet)
        assert [result["ruleId"] for result in log(told)["results"]] == ["unjudged-model"]
        assert ElementTree.fromstring(render(told, "junit")).get("errors") == "1"
    told = Policy(require=("linf",)).applied(clean(judgement=Judgement(verdict=Verdict.SUSPICIOUS)), TODAY)
    assert status_of(told, FailOn.backdoored) == 3, "also where the finding itself is tolerated"
    assert status_of(told, FailOn.suspicious) == 1, "a finding is graver than what could not be told"


def test_an_acceptance_lets_one_file_pass_until_its_day() -> None:
    assert status(Policy(accept=(acceptance(),)), backdoored()) == 0
    assert status(Policy(accept=(acceptance(expires=date(2026, 5, 4)),)), backdoored()) == 1
    assert status(Policy(accept=(acceptance("cd" * 32),)), backdoored()) == 1
    assert status(Policy(accept=(acceptance(),), require=("nowhere",)), backdoored()) == 3, "a gap stays a gap"
    doubtful = replace(backdoored(), judgement=Judgement(verdict=Verdict.INCONCLUSIVE))
    assert Policy(accept=(acceptance(),)).applied(doubtful, TODAY).accepted is None, "there is nothing to accept"


def test_every_form_tells_an_acceptance() -> None:
    told = Policy(accept=(acceptance(),)).applied(backdoored(), TODAY)
    for form in ("text", "html", "markdown", "sarif", "junit"):
        assert f"until 2026-05-05 because: {WHY}" in render(told, form), form
    assert json.loads(render(told, "json"))["accepted"] == {"reason": WHY, "expires": "2026-05-05"}
    assert json.loads(render(backdoored(), "json"))["accepted"] is None
    (result,) = log(told)["results"]
    assert result["suppressions"] == [{"kind": "external", "justification": f"until 2026-05-05 because: {WHY}"}]
    assert "suppressions" not in log(backdoored())["results"][0]
    assert ElementTree.fromstring(render(told, "junit")).get("failures") == "0"


def test_the_command_line_wins(evil: Path, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    policy = written(tmp_path, 'effort = "thorough"\nbudget = 100')
    asked = ("inspect", str(evil), "--probe", "artifact", "--format", "json", "--policy", str(policy))
    assert json.loads(bdscan(*asked)[1])["made_with"]["effort"] == "thorough"
    assert json.loads(bdscan(*asked, "--effort", "standard")[1])["made_with"]["effort"] == "standard"


def test_fail_on_comes_from_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    from bdscan import pipeline

    monkeypatch.setattr(pipeline, "inspect", lambda *_: clean(judgement=Judgement(verdict=Verdict.SUSPICIOUS)))
    asked = ("inspect", CLEAN, "--policy", str(written(tmp_path, 'fail-on = "backdoored"')))
    assert bdscan(*asked)[0] == 0
    assert bdscan(*asked, "--fail-on", "suspicious")[0] == 1


def test_what_is_accepted_and_what_is_not_is_told(evil: Path, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    own = hashlib.sha256(evil.read_bytes()).hexdigest()
    table = '[[accept]]\nsha256 = "{}"\nreason = "{}"\nexpires = {}\n'
    text = table.format(own, "ours", "2999-01-01") + table.format("cd" * 32, "gone", "2999-01-01")
    asked = ("inspect", str(evil), "--probe", "artifact", "--policy", str(written(tmp_path, text)))
    code, out, err = bdscan(*asked)
    assert code == 0
    assert "until 2999-01-01 because: ours" in out
    assert "the acceptance of cdcdcdcdcdcd… fits none of the files that were looked at: gone" in err
    assert err.count("acceptance") == 1
    code, _, err = bdscan(*asked, CLEAN, "--output", str(tmp_path / "all.md"))
    assert code == 3
    assert f"{evil}: backdoored, accepted until 2999-01-01" in err
    assert "accepted until 2999-01-01 because: ours |" in (tmp_path / "all.md").read_text(encoding="utf-8")
    written(tmp_path, table.format(own, "ours", "2020-01-01"))
    code, out, err = bdscan(*asked)
    assert code == 1
    assert "ours" not in out
    assert "expired on 2020-01-01 and does not count: ours" in err
