"""What is known passes while it gets no worse; what is new does not, and what no longer applies is told."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import SAMPLES
from findings import compared
from test_report import backdoored, bare
from test_sarif import log

from bdscan.cli.choices import FailOn
from bdscan.cli.exit_status import status_of
from bdscan.facts.failure import Failure
from bdscan.facts.finding import Finding, Judgement, Level, Run, Verdict
from bdscan.facts.problem import Problem
from bdscan.gate.baseline import Baseline, Entry, entry_of, read_baseline
from bdscan.report import FORMATS, Report, render
from bdscan.verdict.judge import judge

SHA = "ab" * 32
CLEAN = str(SAMPLES / "models" / "clean.pt")
ASKED = ("--probe", "artifact", "--format", "json")


def report(*runs: Run, sha256: str = SHA, **changes: object) -> Report:
    subject = replace(bare().subject, sha256=sha256, path="net.pt")
    return replace(bare(), subject=subject, runs=runs, judgement=judge(runs), **changes)  # type: ignore[arg-type]


def file(level: Level) -> Run:
    return Run(probe="artifact", family="file", findings=(Finding(level=level, message="x"),))


def net(family: str = "trigger", *, shown: bool = False) -> Run:
    """One family that points to class 3, by itself a suspicion."""
    p_values = np.where(np.arange(10) == 3, 1e-6, 0.5)
    finding = Finding(level=Level.SUSPECT, message="x", target=3, demonstrated=shown, classes=compared(p_values))
    return Run(probe=family, family=family, findings=(finding,))


SUSPECTED = (net(),)
CONFIRMED = (net(shown=True), net("weights"))  # a trigger that is shown, and a second family


def baseline(*reports: Report) -> Baseline:
    entries = [entry for each in reports if (entry := entry_of(each))]
    return Baseline({entry.sha256: entry for entry in entries})


def status(told: Report) -> int:
    return status_of(told, FailOn.suspicious)


def evil(path: Path, command: str = "true") -> Path:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (command,)

    path.write_bytes(pickle.dumps(Payload()))
    return path


def test_the_parts_that_the_cases_are_made_of() -> None:
    assert report(file(Level.SUSPECT)).verdict is Verdict.SUSPICIOUS
    assert report(file(Level.BACKDOOR)).verdict is Verdict.BACKDOORED
    assert report(*SUSPECTED).verdict is Verdict.SUSPICIOUS
    assert report(*CONFIRMED).verdict is Verdict.BACKDOORED


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (SUSPECTED, SUSPECTED),
        (CONFIRMED, SUSPECTED),
        ((file(Level.BACKDOOR),), (file(Level.BACKDOOR),)),
        ((file(Level.BACKDOOR), *CONFIRMED), (file(Level.SUSPECT), *SUSPECTED)),
    ],
)
def test_what_is_known_and_no_worse_passes(then: tuple[Run, ...], now: tuple[Run, ...]) -> None:
    told = baseline(report(*then)).applied(report(*now))
    assert told.baseline == "unchanged"
    assert status(told) == 0
    assert told.verdict is report(*now).verdict, "it is told as it is"


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (SUSPECTED, CONFIRMED),
        (SUSPECTED, (*SUSPECTED, file(Level.SUSPECT))),
        ((file(Level.BACKDOOR),), (file(Level.BACKDOOR), *SUSPECTED)),
        ((file(Level.BACKDOOR), *SUSPECTED), (file(Level.BACKDOOR), *CONFIRMED)),
        ((file(Level.BACKDOOR),), CONFIRMED),
        (CONFIRMED, (file(Level.SUSPECT),)),
        ((), SUSPECTED),
    ],
)
def test_nothing_worse_hides_behind_what_is_known(then: tuple[Run, ...], now: tuple[Run, ...]) -> None:
    told = baseline(report(*then)).applied(report(*now))
    assert told.baseline == "new"
    assert status(told) == 1


def test_other_bytes_are_another_finding() -> None:
    told = baseline(report(*SUSPECTED)).applied(report(*SUSPECTED, sha256="cd" * 32))
    assert (told.baseline, status(told)) == ("new", 1)


def test_a_refusal_is_a_finding_of_its_own() -> None:
    passed = replace(report(), judgement=Judgement(verdict=Verdict.CLEAN))
    refused = replace(passed, refused=("too low",))
    assert status(baseline(refused).applied(refused)) == 0
    known = baseline(report(*SUSPECTED))
    assert status(known.applied(replace(report(*SUSPECTED), refused=("too low",)))) == 1
    assert known.applied(passed).baseline is None, "there is nothing to know"


def test_what_could_not_be_told_stays_so() -> None:
    gap = report(*SUSPECTED, unmet=("the policy requires `head`, which did not run",))
    told = baseline(gap).applied(gap)
    assert (told.baseline, status(told)) == ("unchanged", 3)
    undecided = report(Run(probe="head", failure=Failure.refused("x")))
    assert entry_of(undecided) is None
    assert status(baseline(undecided).applied(undecided)) == 3


def test_every_form_tells_it() -> None:
    known = baseline(backdoored()).applied(backdoored())
    new = Baseline({}).applied(backdoored())
    for form in ("text", "html", "markdown", "junit"):
        assert "in the baseline, and no worse than there" in render(known, form), form
        assert "baseline" not in render(new, form), form
    for told, state in ((known, "unchanged"), (new, "new")):
        assert log(told)["results"][0]["baselineState"] == state
        assert json.loads(render(told, "json"))["baseline"] == state
    assert "baselineState" not in log(backdoored())["results"][0]
    assert json.loads(render(backdoored(), "json"))["baseline"] is None
    assert ElementTree.fromstring(render(known, "junit")).get("failures") == "0"
    assert set(FORMATS) >= {"text", "html", "markdown", "junit", "sarif", "json"}


def test_the_mark_is_that_of_code_scanning() -> None:
    entry = entry_of(backdoored())
    assert entry is not None
    assert log(backdoored())["results"][0]["partialFingerprints"] == {"primaryLocationLineHash": entry.fingerprint}


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = [entry_of(report(*CONFIRMED)), entry_of(report(file(Level.BACKDOOR), sha256="cd" * 32))]
    held = [entry for entry in entries if entry]
    known, reversed_ = (Baseline({entry.sha256: entry for entry in each}) for each in (held, held[::-1]))
    (tmp_path / "known.json").write_text(known.to_json())
    assert read_baseline(tmp_path / "known.json") == known
    assert known.to_json() == reversed_.to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON"),
        ("[]", "its schema is not `bdscan.gate.baseline/1`"),
        ('{"schema": "bdscan.gate.baseline/2", "findings": []}', "its schema is not"),
        ('{"schema": "bdscan.gate.baseline/1"}', "its schema is not"),
        ('{"schema": "bdscan.gate.baseline/1", "findings": [{}]}', "an entry does not have `rule`, `fingerprint`"),
    ],
)
def test_a_file_that_is_no_baseline_is_wrong_usage(text: str, said: str, tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "known.json").write_text(text)
    status, out, err = bdscan("inspect", CLEAN, "--baseline", str(tmp_path / "known.json"))
    assert (status, out) == (2, "")
    assert said in err
    assert bdscan("inspect", CLEAN, "--baseline", str(tmp_path / "none.json"))[0] == 2
    assert bdscan("inspect", CLEAN, "--write-baseline", str(tmp_path))[0] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "ab"},
        {"found": {}},
        {"found": {"net": "clean"}},
        {"found": {"moon": "suspicious"}},
        {"path": 3},
        {"found": 1},
    ],
)
def test_an_entry_that_says_something_else_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    entry = entry_of(report(*SUSPECTED))
    assert isinstance(entry, Entry)
    text = json.dumps({"schema": "bdscan.gate.baseline/1", "findings": [vars(entry) | change]})
    (tmp_path / "known.json").write_text(text)
    with pytest.raises(Problem) as told:
        read_baseline(tmp_path / "known.json")
    assert told.value.status == 2


def test_from_one_call_to_the_next(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    first, known = evil(tmp_path / "evil.pt"), tmp_path / "known.json"
    assert bdscan("inspect", str(first), CLEAN, *ASKED, "--write-baseline", str(known))[0] == 1
    assert [each["path"] for each in json.loads(known.read_text())["findings"]] == [str(first)]
    asked = (*ASKED, "--baseline", str(known))
    status, out, err = bdscan("inspect", str(first), *asked)
    assert (status, json.loads(out)["baseline"], json.loads(out)["verdict"]) == (0, "unchanged", "backdoored")
    assert "no longer" not in err
    assert bdscan("inspect", str(first), str(evil(tmp_path / "other.pt", "false")), *asked)[0] == 1
    first.rename(tmp_path / "moved.pt")
    assert bdscan("inspect", str(tmp_path / "moved.pt"), *asked)[0] == 0
    status, _, err = bdscan("inspect", CLEAN, *asked)
    assert status == 3
    assert f"the baseline's entry on {first}" in err
    assert "fits none of the files that were looked at" in err


def test_entries_that_no_longer_apply_are_told() -> None:
    known = baseline(report(*SUSPECTED))
    assert "nothing was found this time" in next(known.outdated({SHA: False}))
    assert "fits none of the files" in next(known.outdated({}))
    assert not list(known.outdated({SHA: True}))
