"""The attestation: what in-toto's own library takes, and that nothing is signed as passed that did not pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2 as spec
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message
from test_policy import clean, written
from test_report import ALL, TREATMENT, backdoored, bare, treated, unproven, unread

from bdscan import pipeline
from bdscan.facts.finding import Judgement, Run, Verdict
from bdscan.report import Acceptance, Input, Report, render, render_all

CLEAN = SAMPLES / "models" / "clean.pt"
LISTS = ("passedTests", "warnedTests", "failedTests")


def known(report: Report) -> Report:
    """The report, on a file whose bytes are known."""
    return replace(report, subject=replace(report.subject, sha256="ab" * 32))


def kept(text: str) -> dict[str, Any]:
    """A statement that the field's library takes: all fields of statement and predicate, and no other."""
    statement: dict[str, Any] = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    message = json_format.ParseDict(statement, Message())
    Statement.copy_from_pb(message).validate()
    assert message.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    predicate = statement["predicate"]
    assert predicate["result"] in ("PASSED", "WARNED", "FAILED")
    read = json_format.ParseDict(predicate, spec.TestResult())
    assert list(read.passed_tests) == predicate["passedTests"]
    for descriptor in read.configuration:
        ResourceDescriptor.copy_from_pb(descriptor).validate()
    assert read.configuration
    return statement


def predicate(report: Report, fail_on: Verdict = Verdict.SUSPICIOUS) -> dict[str, Any]:
    told: dict[str, Any] = kept(render(report, "intoto", fail_on=fail_on))["predicate"]
    return told


def verdict(word: Verdict, **more: Any) -> Report:
    return known(clean(judgement=Judgement(verdict=word), runs=(Run(probe="artifact"),), **more))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_every_report_keeps_the_schema(make: Callable[[], Report]) -> None:
    told = predicate(known(make()))
    assert sum(("verdict" in told[name]) for name in LISTS) == 1
    assert (told["result"] == "FAILED") == ("verdict" in told["failedTests"])


def test_the_library_would_notice() -> None:
    text = render(backdoored(), "intoto")
    for wrong in (
        text.replace("Statement/v1", "Statement/v0.1"),
        text.replace('"digest"', '"digests"'),
        text.replace('"passedTests"', '"passed"'),
        text.replace('"result": "FAILED"', '"result": 1'),
    ):
        with pytest.raises((json_format.ParseError, ValueError, AssertionError)):
            kept(wrong)


@pytest.mark.parametrize(
    ("report", "result"),
    [
        (verdict(Verdict.CLEAN), "PASSED"),
        (verdict(Verdict.INCONCLUSIVE), "FAILED"),
        (verdict(Verdict.SUSPICIOUS), "FAILED"),
        (verdict(Verdict.BACKDOORED), "FAILED"),
        (verdict(Verdict.CLEAN, unmet=("`linf` did not run",)), "FAILED"),
        (verdict(Verdict.CLEAN, refused=("accuracy too low",)), "FAILED"),
        (treated(), "WARNED"),  # one of its checks could not be made
        (replace(treated(), treatment=replace(TREATMENT, checks=TREATMENT.checks[:2])), "PASSED"),
        (unproven(), "FAILED"),
        (known(unread()), "FAILED"),
    ],
)
def test_the_result_is_what_the_gate_says(report: Report, result: str) -> None:
    assert predicate(report)["result"] == result


def test_what_is_only_tolerated_is_no_pass() -> None:
    assert predicate(verdict(Verdict.SUSPICIOUS), Verdict.BACKDOORED)["result"] == "WARNED"
    assert predicate(verdict(Verdict.INCONCLUSIVE), Verdict.BACKDOORED)["result"] == "FAILED"
    accepted = Acceptance(sha256="ab" * 32, reason="known", expires=date(2099, 1, 1))
    assert predicate(replace(backdoored(), accepted=accepted))["result"] == "WARNED"
    assert predicate(replace(backdoored(), baseline="unchanged"))["result"] == "WARNED"
    assert predicate(replace(backdoored(), baseline="new"))["result"] == "FAILED"
    refused = verdict(Verdict.CLEAN, refused=("accuracy too low",))
    assert predicate(replace(refused, baseline="unchanged"))["result"] == "WARNED"


def test_each_probe_stands_where_it_belongs() -> None:
    told = predicate(backdoored())
    assert told["failedTests"] == ["invert", "transfer", "verdict"], "found a trigger; ran out of memory; the gate"
    assert told["warnedTests"] == ["linf"]
    assert told["passedTests"] == ["gradcam", "head"]
    told = predicate(unproven())
    assert told["failedTests"] == ["check: retuned", "verdict"]


def test_the_policy_is_a_test_of_its_own() -> None:
    read = (Input(role="policy", path="bdscan.toml", digest={"sha256": "cd" * 32}),)
    assert "policy" in predicate(verdict(Verdict.CLEAN, inputs=read))["passedTests"]
    assert "policy" in predicate(verdict(Verdict.CLEAN, inputs=read, refused=("too low",)))["failedTests"]
    assert "policy" not in json.dumps(predicate(verdict(Verdict.CLEAN)))


def test_the_configuration_names_what_the_result_depends_on() -> None:
    read = (
        Input(role="policy", path="bdscan.toml", digest={"sha256": "cd" * 32}),
        Input(role="clean", path="images", digest={"dirHash": "ef" * 32}),
        Input(role="classes", path="huge", digest={}),
    )
    scanner, policy, images, classes = predicate(replace(backdoored(), inputs=read))["configuration"]
    assert scanner["annotations"]["probes"]["invert"] == {"steps": 200, "rate": 0.1}
    assert scanner["annotations"]["seed"] == 0
    assert "seconds" not in scanner["annotations"], "same seed, same bytes"
    assert policy == {"name": "bdscan.toml", "digest": {"sha256": "cd" * 32}, "annotations": {"role": "policy"}}
    assert images["digest"] == {"dirHash": "ef" * 32}
    assert "digest" not in classes


def test_a_treated_model_is_the_subject_and_the_original_is_named() -> None:
    told = kept(render(treated(), "intoto"))
    assert told["subject"] == [{"name": "net.fst.pth", "digest": {"sha256": "cd" * 32}}]
    suspect = told["predicate"]["configuration"][-1]
    assert suspect["digest"] == {"sha256": "ab" * 32}
    assert suspect["annotations"]["role"] == "suspect"
    assert "check: accuracy" in told["predicate"]["passedTests"]


def test_many_models_are_a_statement_a_line_and_unknown_bytes_are_none() -> None:
    lines = render_all([backdoored(), bare(), treated()], "intoto").splitlines()
    assert [kept(line)["subject"][0]["digest"]["sha256"] for line in lines] == ["ab" * 32, "cd" * 32]
    assert render(bare(), "intoto") == ""


def test_it_is_written_beside_the_report(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    policy = written(tmp_path, 'require = ["artifact"]')
    asked = ("inspect", str(CLEAN), "--probe", "artifact", "--policy", str(policy))
    status, out, _ = bdscan(*asked, "--attest", "test.json", "--format", "junit")
    assert (status, out[:5]) == (3, "<?xml")
    told = kept((tmp_path / "test.json").read_text(encoding="utf-8"))
    assert told["subject"][0]["digest"]["sha256"] == hashlib.sha256(CLEAN.read_bytes()).hexdigest()
    assert told["predicate"]["result"] == "FAILED", "without images nobody could tell"
    named = {each["name"]: each for each in told["predicate"]["configuration"]}
    assert named["bdscan.toml"]["digest"]["sha256"] == hashlib.sha256(policy.read_bytes()).hexdigest()
    status, out, _ = bdscan(*asked, "--format", "intoto")
    assert kept(out) == told
    assert bdscan(*asked, "--output", "again.intoto.json")[0] == 3
    assert kept((tmp_path / "again.intoto.json").read_text(encoding="utf-8")) == told


def test_exit_zero_changes_the_exit_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bdscan) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(pipeline, "inspect", lambda *_: backdoored())
    assert bdscan("inspect", str(CLEAN), "--exit-zero", "--attest", "test.json")[0] == 0
    assert kept((tmp_path / "test.json").read_text())["predicate"]["result"] == "FAILED"
    monkeypatch.setattr(pipeline, "inspect", lambda *_: verdict(Verdict.SUSPICIOUS))
    assert bdscan("inspect", str(CLEAN), "--fail-on", "backdoored", "--attest", "test.json")[0] == 0
    assert kept((tmp_path / "test.json").read_text())["predicate"]["result"] == "WARNED"


def test_a_file_that_is_not_there_is_not_attested_and_that_is_told(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "test.jsonl").write_text("of an earlier scan")
    status, _, err = bdscan("inspect", "missing.pt", str(CLEAN), "--probe", "artifact", "--attest", "test.jsonl")
    assert status == 3
    assert "missing.pt: no attestation" in err
    (line,) = (tmp_path / "test.jsonl").read_text().splitlines()
    assert kept(line)["subject"][0]["name"].endswith("clean.pt")
