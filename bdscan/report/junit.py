"""The reports as JUnit XML for a CI's test page: one suite, one test a model, failed as the exit status says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from xml.etree import ElementTree

from bdscan.facts.finding import Verdict
from bdscan.report import Report, numbers, text, treatment_text, words

_OUT = 20_000  # characters of the text report that go with each test
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_all(reports: Sequence[Report], fail_on: Verdict = Verdict.SUSPICIOUS) -> str:
    """A finding is a failure and what could not be judged an error; the probes' words go with each as its output."""
    cases = [_case(report, fail_on) for report in reports]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "time": f"{sum(map(_seconds, reports)):.3f}",
    }
    suites = ElementTree.Element("testsuites", counts, name="bdscan")
    ElementTree.SubElement(suites, "testsuite", counts, name="bdscan", skipped="0").extend(cases)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode")


def _case(report: Report, fail_on: Verdict) -> ElementTree.Element:
    verb = "inspect" if report.treatment is None else "purify"
    name = _legal(numbers.plain(report.subject.path, 1000))
    case = ElementTree.Element("testcase", classname=f"bdscan.{verb}", name=name, time=f"{_seconds(report):.3f}")
    outcome = _outcome(report, fail_on)
    if outcome:
        message = _legal(numbers.plain(f"{report.verdict.word}: {words.sentence(report)}", 1000))
        element = ElementTree.SubElement(case, outcome, type=report.verdict.word, message=message)
        element.text = _legal(
            "\n".join((*words.reasons(report), *words.failures(report), f"hint: {words.hint(report)}"))
        )
    out = _legal(text.render(report))
    ElementTree.SubElement(case, "system-out").text = out if len(out) <= _OUT else f"{out[:_OUT]}\n..."
    return case


def _outcome(report: Report, fail_on: Verdict) -> str | None:
    if report.found(fail_on) or treatment_text.failed(report):
        return "failure"
    return "error" if report.undecided else None


def _seconds(report: Report) -> float:
    seconds = report.made_with.get("seconds")
    return max(0.0, float(seconds)) if isinstance(seconds, Real) else 0.0


def _legal(text: str) -> str:
    """Without what XML 1.0 has no way to write."""
    return _NOT_XML.sub("\ufffd", text)
