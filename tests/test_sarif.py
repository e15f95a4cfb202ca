"""SARIF: what code scanning will take, show and recognise again."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_report import ALL, backdoored, bare, swollen, treated, unproven, unread

from bdscan.facts.finding import Finding, Judgement, Level, Run, Verdict
from bdscan.report import Report, Subject, render, render_all, sarif
from bdscan.report.rules import RULES

SCHEMAS = Path(__file__).parent / "schemas"
# The schema as its editors published it, with every `additionalProperties: false` in place.
VALIDATOR = jsonschema.Draft4Validator(json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8")))
# The same with the errata worked in, as it comes with Microsoft's SARIF Multitool 5.7.0 (MIT licence).
MENDED = jsonschema.Draft202012Validator(
    json.loads((SCHEMAS / "sarif-2.1.0-errata.json").read_text(encoding="utf-8")),
    format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
)
# GitHub: docs.github.com, "SARIF support for code scanning", limits of an uploaded file.
LIMITS = {"results": 25_000, "rules": 25_000, "tags": 20, "locations": 1_000, "bytes": 10_000_000}
IDS = [
    *("dangerous-file", "backdoored-model", "unproven-treatment", "suspicious-model"),
    *("refused-by-policy", "unjudged-model"),
]


def dangerous() -> Report:
    """A pickle that would run code."""
    danger = Finding(level=Level.BACKDOOR, message="the pickle calls `os.system`")
    run = Run(probe="artifact", family="file", findings=(danger,))
    return replace(unread(), judgement=Judgement(verdict=Verdict.BACKDOORED, reasons=("artifact: code",)), runs=(run,))


def suspicious() -> Report:
    return replace(bare(), judgement=Judgement(verdict=Verdict.SUSPICIOUS))


def log(*reports: Report) -> dict[str, Any]:
    """The one run of a document that keeps the schema."""
    said = json.loads(render_all(reports, "sarif"), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    VALIDATOR.validate(said)
    MENDED.validate(said)
    assert said["version"] == "2.1.0"
    assert said["$schema"].endswith("sarif-schema-2.1.0.json")
    assert len(said["runs"]) == 1
    run: dict[str, Any] = said["runs"][0]
    return run


def sha(seed: int) -> str:
    return hashlib.sha256(bytes([seed])).hexdigest()


def uris(run: dict[str, Any]) -> list[dict[str, str]]:
    return [result["locations"][0]["physicalLocation"]["artifactLocation"] for result in run["results"]]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("make", [*ALL, dangerous, suspicious], ids=lambda make: make.__name__)
def test_every_report_keeps_the_schema(make: Any) -> None:
    run = log(make())
    assert '"fixes"' not in json.dumps(run)
    for result in run["results"]:
        assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert len(result["message"]["text"]) < 4000


def test_the_schema_would_notice() -> None:
    said = sarif.document([backdoored()])
    for key, value in (("level", "grave"), ("locations", None), ("fixes", [{}]), ("verdict", "x")):
        broken = json.loads(json.dumps(said))
        broken["runs"][0]["results"][0][key] = value
        assert not VALIDATOR.is_valid(broken), key
        assert not MENDED.is_valid(broken), key


def test_rules_are_what_github_asks_for() -> None:
    rules = log(bare())["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.id for rule in RULES] == IDS  # a contract: users dismiss by id
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert "`" not in rule["help"]["text"]
        assert rule["help"]["markdown"]
        assert rule["defaultConfiguration"]["level"] in {"note", "warning", "error"}
        assert len(rule["properties"]["tags"]) <= 10
        assert rule["properties"]["precision"] in {"very-high", "high", "medium", "low"}
        severity = rule["properties"].get("security-severity")
        assert severity is None or (isinstance(severity, str) and 0 < float(severity) <= 10)
        assert not re.search(r"\bsafe\b", json.dumps(rule))


@pytest.mark.parametrize(
    ("report", "rule", "level"),
    [
        (backdoored(), "backdoored-model", "error"),
        (dangerous(), "dangerous-file", "error"),
        (suspicious(), "suspicious-model", "warning"),
        (unread(), "unjudged-model", "warning"),
        (unproven(), "unproven-treatment", "warning"),
        (bare(), None, None),
        (treated(), None, None),
    ],
)
def test_one_result_for_each_model_that_is_not_clean(report: Report, rule: str | None, level: str | None) -> None:
    found = [(result["ruleId"], result["level"]) for result in log(report)["results"]]
    assert found == ([] if rule is None else [(rule, level)])


def test_a_clean_model_is_listed_as_looked_at() -> None:
    (artifact,) = log(bare(), bare())["artifacts"]  # the same file twice is one artifact
    assert artifact == {"location": {"uri": "a.onnx", "uriBaseId": "%SRCROOT%"}, "roles": ["analysisTarget"]}
    assert log(backdoored())["artifacts"][0]["hashes"] == {"sha-256": "ab" * 32}


def test_what_failed_is_told_and_a_model_unread_is_no_success() -> None:
    (invocation,) = log(backdoored())["invocations"]
    assert invocation["executionSuccessful"]
    assert [note["message"]["text"] for note in invocation["toolExecutionNotifications"]] == [
        "transfer: ran out of memory at batch 256"
    ]
    (invocation,) = log(backdoored(), unread())["invocations"]
    assert not invocation["executionSuccessful"]
    assert [note["level"] for note in invocation["toolExecutionNotifications"]] == ["warning", "error"]


def test_the_message_says_the_verdict_first_then_why_then_what_to_do() -> None:
    (result,) = log(backdoored())["results"]
    text = result["message"]["text"]
    assert text.startswith("The evidence says that this model carries a backdoor. Target: class 2")
    assert text.index("recovered a trigger") < text.index("ran out of memory") < text.index("Next: do not deploy it")
    assert "!\\[x\\](http" in text  # a stranger's class name is no link
    assert result["properties"]["p_value"] == 0.000212346


def test_paths_are_relative_to_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(*paths: str) -> list[dict[str, str]]:
        return uris(log(*(replace(backdoored(), subject=Subject(path=path)) for path in paths)))

    inside = {"uri": "models/a%20b%25%23.pt", "uriBaseId": "%SRCROOT%"}
    assert at("models/a b%#.pt", "./models/../models/a b%#.pt", str(tmp_path / "models/a b%#.pt")) == [inside] * 3
    assert at("/elsewhere/net.pt") == [{"uri": "file:///elsewhere/net.pt"}]
    assert at("s3://bucket/net 1.pt") == [{"uri": "s3://bucket/net%201.pt"}]
    assert at("models:/signs/3") == [{"uri": "models:/signs/3"}]
    (tmp_path / ".git").mkdir()
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    assert at("a b%#.pt") == [inside]
    assert at("odd\udcff.pt") == [{"uri": "models/odd%FF.pt", "uriBaseId": "%SRCROOT%"}]


def test_an_alert_follows_the_bytes_and_nothing_else() -> None:
    def prints(report: Report) -> str:
        (result,) = log(report)["results"]
        return str(result["partialFingerprints"]["primaryLocationLineHash"])

    report = backdoored()
    assert re.fullmatch(r"[0-9a-f]{16}:1", prints(report))
    later = replace(report, runs=report.runs[:1], made_with={"seconds": 99.0})
    moved = replace(report, subject=replace(report.subject, path="models/other.pth"))
    retrained = replace(report, subject=replace(report.subject, sha256="ef" * 32))
    milder = replace(report, judgement=Judgement(verdict=Verdict.SUSPICIOUS))
    assert prints(report) == prints(later) == prints(moved)
    assert len({prints(report), prints(retrained), prints(milder)}) == 3
    assert prints(unread()) != prints(replace(unread(), subject=Subject(path="other.pth")))


def test_a_treated_model_is_named_by_the_file_that_was_written() -> None:
    run = log(unproven())
    assert run["automationDetails"]["id"] == "bdscan/purify/"
    assert uris(run) == [{"uri": "net.fst.pth", "uriBaseId": "%SRCROOT%"}]
    assert run["artifacts"][0]["hashes"] == {"sha-256": "cd" * 32}
    assert log(backdoored())["automationDetails"]["id"] == "bdscan/inspect/"


def test_many_models_stay_within_githubs_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(log(swollen())["results"][0]["message"]["text"]) < 3_000
    many = [replace(backdoored(), subject=Subject(path=f"{seed}.pt", sha256=sha(seed))) for seed in range(250)]
    assert len(gzip.compress(render_all(many, "sarif").encode())) * 25_000 / len(many) < 10_000_000
    monkeypatch.setattr(sarif, "_MAX_RESULTS", 3)
    run = log(unread(), suspicious(), bare(), backdoored(), dangerous())
    assert [result["ruleId"] for result in run["results"]] == ["dangerous-file", "backdoored-model", "suspicious-model"]
    assert "1 more results" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_a_file_at_its_largest_is_one_that_github_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many results as there may be, of which a hundredth is rendered, in words that no compression helps with."""
    assert LIMITS["results"] >= sarif._MAX_RESULTS
    monkeypatch.setattr(sarif, "_MAX_RESULTS", sarif._MAX_RESULTS // 100)
    rng = random.Random(0)

    def noise(length: int) -> str:
        return "".join(rng.choices(string.printable[:94], k=length))

    def worst() -> Report:
        because = tuple(noise(400) for _ in range(20))
        subject = replace(backdoored().subject, path=f"{noise(200)}.pt", sha256=rng.randbytes(32).hex())
        return replace(backdoored(), subject=subject, judgement=replace(backdoored().judgement, reasons=because))

    text = render_all([worst() for _ in range(sarif._MAX_RESULTS + 9)], "sarif")
    (run,) = json.loads(text)["runs"]
    assert len(run["results"]) == sarif._MAX_RESULTS
    assert min(len(result["message"]["text"]) for result in run["results"]) > 1_400
    assert len(run["tool"]["driver"]["rules"]) <= LIMITS["rules"]
    assert all(len(rule["properties"]["tags"]) <= LIMITS["tags"] for rule in run["tool"]["driver"]["rules"])
    assert all(len(result["locations"]) <= LIMITS["locations"] for result in run["results"])
    assert len(gzip.compress(text.encode())) * 100 < LIMITS["bytes"]


def test_one_report_and_many_are_the_same_document() -> None:
    assert render(backdoored(), "sarif") == render_all([backdoored()], "sarif")
    assert log()["results"] == []
