"""The verdict as an in-toto statement: a test result about the very bytes that were judged, ready to be signed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from bdscan import __version__
from bdscan.facts.finding import Level, Run, Verdict
from bdscan.report import Report, numbers, places, treatment_text
from bdscan.report.json import Json, tame

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_LISTS = {"PASSED": "passedTests", "WARNED": "warnedTests", "FAILED": "failedTests"}
_BY_LEVEL = {Level.NOTE: "PASSED", Level.SUSPECT: "WARNED", Level.BACKDOOR: "FAILED"}
_BY_CHECK = {treatment_text.PASSED: "PASSED", treatment_text.OPEN: "WARNED", treatment_text.FAILED: "FAILED"}
_OF_THE_RUN = ("effort", "seed", "device", "torch", "python")  # and not the seconds: same seed, same statement


def render_all(reports: Sequence[Report], fail_on: Verdict = Verdict.SUSPICIOUS, compact: bool = False) -> str:
    """One statement, or one a line: what is true of one model is not to be signed for another."""
    layout: Json = {} if compact or len(reports) > 1 else {"indent": 2}
    statements = (statement(report, fail_on) for report in reports if attestable(report))
    return "\n".join(json.dumps(each, **layout) for each in statements)


def attestable(report: Report) -> bool:
    """Whether it is known which bytes the report is about: without them there is nothing to attest."""
    _, sha256 = places.judged(report)
    return sha256 is not None


def statement(report: Report, fail_on: Verdict) -> Json:
    """The statement as plain values."""
    path, sha256 = places.judged(report)
    tests: dict[str, list[str]] = {name: [] for name in _LISTS.values()}
    verdict = _result(report, fail_on)
    for name, outcome in (*_tests(report), ("verdict", verdict)):
        tests[_LISTS[outcome]].append(numbers.plain(name, 200))
    predicate = {"result": verdict, "configuration": list(_configuration(report)), **tests}
    subject = {"name": _name(path), "digest": {"sha256": sha256}}
    return {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate}


def _result(report: Report, fail_on: Verdict) -> str:
    """What the exit status says, but never by `--exit-zero`; what could not be judged has not passed."""
    if report.found(fail_on) or report.undecided or treatment_text.failed(report):
        return "FAILED"
    open_ = any(check.word == treatment_text.OPEN for check in treatment_text.checks(report))
    borne = report.accepted is not None or report.refused or open_  # let pass, but somebody had to say so
    return "WARNED" if borne or report.verdict is not Verdict.CLEAN else "PASSED"


def _tests(report: Report) -> Iterator[tuple[str, str]]:
    """Each probe, each check of a treatment and the policy, with its outcome."""
    for run in report.runs:
        yield run.probe, _probe_outcome(run)
    for check in treatment_text.checks(report):
        yield f"check: {check.name}", _BY_CHECK[check.word]
    if report.refused or report.unmet:
        yield "policy", "FAILED"
    elif any(each.role == "policy" for each in report.inputs):
        yield "policy", "PASSED"


def _probe_outcome(run: Run) -> str:
    """A probe that stopped early has not passed, whatever it had found until then."""
    if run.failure is not None:
        return "FAILED"
    return _BY_LEVEL[max((finding.level for finding in run.findings), default=Level.NOTE)]


def _configuration(report: Report) -> Iterator[Json]:
    """What has to be the same for the result to be the same."""
    made = {name: report.made_with[name] for name in _OF_THE_RUN if report.made_with.get(name) is not None}
    probes = {run.probe: run.settings for run in report.runs if run.settings}
    about = {**made, "version": __version__, "probes": probes}
    yield {"name": "bdscan", "annotations": tame(about)}
    for each in report.inputs:
        digest = {"digest": dict(each.digest)} if each.digest else {}
        yield {"name": _name(each.path), **digest, "annotations": {"role": each.role}}
    if report.treatment is not None:
        method, settings = report.treatment.method, report.treatment.settings
        suspect = {"digest": {"sha256": report.subject.sha256}} if report.subject.sha256 else {}
        about = {"role": "suspect", "method": method, "settings": settings}
        yield {"name": _name(report.subject.path), **suspect, "annotations": tame(about)}


def _name(path: str) -> str:
    """As the repository knows it, where it lies inside one."""
    return numbers.plain(places.inside(path, places.repository()) or path, 1000)
