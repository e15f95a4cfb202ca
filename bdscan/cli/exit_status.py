"""What each way out exits with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bdscan.cli.choices import FailOn
from bdscan.facts.failure import FailureKind
from bdscan.facts.problem import COULD_NOT_TELL

if TYPE_CHECKING:
    from bdscan.facts.finding import Verdict
    from bdscan.report import Report

FOUND = 1
OUR_FAULT = 4
GRAVEST_FIRST = (OUR_FAULT, FOUND, COULD_NOT_TELL, 0)


def least_verdict(fail_on: FailOn) -> Verdict:
    """The least that is a finding."""
    from bdscan.facts.finding import Verdict  # a dozen dataclasses, which `--help` does without

    return Verdict.SUSPICIOUS if fail_on is FailOn.suspicious else Verdict.BACKDOORED


def status_of(report: Report, fail_on: FailOn) -> int:
    """The exit status of one report: what was found outlives what failed afterwards."""
    if report.found(least_verdict(fail_on)):
        return FOUND
    if any(run.failure and run.failure.kind is FailureKind.CRASH for run in report.runs if run.probe == "load"):
        return OUR_FAULT
    return COULD_NOT_TELL if report.undecided else 0
