"""JUnit: what a CI's test page will take and show."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from test_report import ALL, backdoored, bare, treated, unproven, unread

from bdscan.facts.finding import Judgement, Verdict
from bdscan.report import Report, Subject, render, render_all

# What Jenkins' junit-10.xsd allows: the children and the attributes of each element, those it requires marked by `!`.
COUNTED = {"name!", "tests!", "failures!", "errors!", "time", "skipped", "timestamp", "hostname", "id", "package"}
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, {"name", "tests", "failures", "errors", "time"}),
    "testsuite": ({"testsuite", "properties", "testcase", "system-out", "system-err"}, COUNTED),
    "testcase": ({"skipped", "error", "failure", "system-out", "system-err"}, {"name!", "classname", "time", "group"}),
    "failure": (set(), {"type", "message"}),
    "error": (set(), {"type", "message"}),
    "system-out": (set(), set()),
}
SUREFIRE_TIME = r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?"


def check(element: ElementTree.Element) -> None:
    """Raise unless the schema allows the element and all below it."""
    children, attributes = ALLOWED[element.tag]
    required = {name.rstrip("!") for name in attributes if name.endswith("!")}
    assert {child.tag for child in element} <= children
    assert required <= set(element.attrib) <= {name.rstrip("!") for name in attributes}
    assert re.fullmatch(SUREFIRE_TIME, element.get("time", ""))
    for child in element:
        check(child)


def cases(*reports: Report, **options: object) -> list[ElementTree.Element]:
    said = render_all(reports, "junit", **options)
    assert said.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
    suites = ElementTree.fromstring(said.encode())
    check(suites)
    (suite,) = suites
    for counted in (suites, suite):
        assert int(counted.get("tests", "")) == len(reports) == len(suite)
        for name in ("failure", "error"):
            assert int(counted.get(f"{name}s", "")) == len(suite.findall(f"testcase/{name}"))
    return list(suite)


def outcome(case: ElementTree.Element) -> list[str]:
    return [child.tag for child in case if child.tag != "system-out"]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_every_report_is_what_ci_servers_take(make: object) -> None:
    (case,) = cases(make())  # type: ignore[operator]
    assert len(case.findtext("system-out", "")) < 25_000
    assert len(ElementTree.tostring(case)) < 150_000


def test_a_test_fails_as_the_exit_status_says() -> None:
    suspicious = replace(bare(), judgement=Judgement(verdict=Verdict.SUSPICIOUS))
    reports = (backdoored(), suspicious, unread(), bare(), treated(), unproven())
    found = [outcome(case) for case in cases(*reports)]
    assert found == [["failure"], ["failure"], ["error"], [], [], ["failure"]]
    found = [outcome(case) for case in cases(*reports, fail_on=Verdict.BACKDOORED)]
    assert found == [["failure"], [], ["error"], [], [], ["failure"]]


def test_a_test_is_a_model_with_its_reasons_and_its_report() -> None:
    first, second = cases(backdoored(), treated())
    assert (first.get("classname"), first.get("name")) == ("bdscan.inspect", "models/third party <b>/net.pth")
    assert first.get("time") == "24.100"
    failure = first.find("failure")
    assert failure is not None
    assert failure.get("type") == "backdoored"
    assert failure.get("message", "").startswith("backdoored: the evidence says")
    told = (failure.text or "").splitlines()
    assert told[0] == "`invert` recovered a trigger and showed it on held-out images"
    assert told[-1].startswith("hint: do not deploy it")
    assert "99.2 % of held-out images" in first.findtext("system-out", "")
    assert second.get("classname") == "bdscan.purify"
    assert "passed: a fresh search finds no trigger" in second.findtext("system-out", "")


def test_nothing_that_xml_cannot_hold_gets_in() -> None:
    odd = "a\x00\x1b[31m\ufffe\uffff\ud800\u202e]]>&<b>'\".pt"
    report = replace(unread(), subject=Subject(path=odd), judgement=Judgement(verdict=Verdict.INCONCLUSIVE))
    (case,) = cases(replace(report, judgement=replace(report.judgement, reasons=(odd,))))
    assert case.get("name") == "a\\x00\\x1b[31m\ufffd\ufffd\\ud800\\u202e]]>&<b>'\".pt"


def test_no_model_at_all_is_still_a_document() -> None:
    assert cases() == []
    assert render(backdoored(), "junit") == render_all([backdoored()], "junit")


def test_the_table_would_notice() -> None:
    for broken in ("<testsuites><testcase name='x'/></testsuites>", "<testsuites><testsuite name='x'/></testsuites>"):
        with pytest.raises(AssertionError):
            check(ElementTree.fromstring(broken))
