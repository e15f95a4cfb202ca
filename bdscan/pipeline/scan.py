"""From one model's name to one report, whatever goes wrong on the way: fetched, looked up in the cache, inspected."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from bdscan import __version__, pipeline
from bdscan.facts.deadline import OutOfTime
from bdscan.facts.failure import STOPPED, Failure
from bdscan.facts.finding import Run
from bdscan.facts.problem import CRASHED, USAGE, Problem
from bdscan.gate.cache import Cache
from bdscan.gate.provenance import digest_of_model
from bdscan.load.source.addresses import shown
from bdscan.load.source.fetch import local_copy
from bdscan.pipeline.options import Options
from bdscan.pipeline.runner import out_of_time
from bdscan.report import Report, Subject
from bdscan.verdict.judge import judge


@dataclass(frozen=True)
class Notice:
    """A sentence for the person who asked, beside the report."""

    message: str
    hint: str = ""
    traceback: str = ""  # of a bug of ours


@dataclass(frozen=True)
class ScanResult:
    """A model's report, and what else there is to say about the scan."""

    report: Report
    notices: tuple[Notice, ...] = ()
    stderr: str = ""  # of a scan in another process: what libraries wrote there

    @classmethod
    def cut_short(cls, path: str, early: Report, failure: Failure, *notices: Notice) -> ScanResult:
        """On a file of which only that could be told what it shows by itself."""
        runs = (*early.runs, Run(probe="load", failure=failure))
        report = replace(early, runs=runs, judgement=judge(runs))
        return cls(_under_address(report, report.subject.path, path), notices)

    @classmethod
    def unread(cls, path: str, failure: Failure, *notices: Notice) -> ScanResult:
        """On a file that could not be judged at all."""
        runs = (Run(probe="load", failure=failure),)
        subject = Subject(path=path, sha256=digest_of_model(path))
        return cls(
            Report(subject=subject, judgement=judge(runs), runs=runs, made_with={"bdscan": __version__}), notices
        )


@dataclass(frozen=True)
class Scanner:
    """How every model is looked at."""

    options: Options
    cache: Cache | None
    max_bytes: float  # that may be fetched for one model

    def scan(self, name: str) -> ScanResult:
        """One model's result; its failure never stops the others."""
        address, notices = shown(name), list[Notice]()
        try:
            show = self.options.show
            with local_copy(name, self.max_bytes, lambda done, total: show("fetch", done, total, address)) as path:
                report = _under_address(self._report(str(path), address, notices), str(path), address)
                return ScanResult(report, tuple(notices))
        except Problem as problem:
            if problem.status == USAGE:
                raise
            failure = Failure.refused(problem.message)
            notices.append(Notice(f"{address}: {failure.message}", problem.hint))
        except OutOfTime:
            failure = out_of_time(self.options)
        except KeyboardInterrupt:
            failure = STOPPED
        except Exception as error:  # noqa: BLE001 - a crash must never look like a finding
            failure = Failure.crash(error)
            notices.append(Notice(CRASHED, traceback=traceback.format_exc()))
        return ScanResult.unread(address, failure, *notices)

    def _report(self, path: str, name: str, notices: list[Notice]) -> Report:
        key = self.cache.key(path, name) if self.cache else None
        if self.cache and key and (kept := self.cache.get(key)) is not None:
            notices.append(Notice(f"{name}: unchanged, the report is from the cache"))
            return kept
        try:
            report = pipeline.inspect(path, self.options)
        except Problem as problem:
            raise Problem(problem.message.replace(path, name), hint=problem.hint, status=problem.status) from None
        if self.cache and key:
            try:
                self.cache.put(key, report)
            except Problem as problem:  # the report is what counts
                notices.append(Notice(problem.message, problem.hint))
        return report


def open_cache(folder: Path, options: Options) -> Cache:
    """The cache in a folder, which need not be there yet."""
    if folder.exists() and not folder.is_dir():
        raise Problem(f"the cache `{folder}` is not a folder", status=USAGE)
    # A report that was cut short is never kept, so the time it had does not matter.
    return Cache(folder, {name: value for name, value in options.settled.items() if name != "budget"})


def _under_address(report: Report, path: str, address: str) -> Report:
    """A model from elsewhere goes by its address, not by the place where it lay for a moment."""
    if path == address:
        return report

    def renamed(message: str) -> str:
        return message.replace(path, address)

    runs = []
    for run in report.runs:
        findings = tuple(replace(finding, message=renamed(finding.message)) for finding in run.findings)
        failure = run.failure and replace(run.failure, message=renamed(run.failure.message))
        runs.append(replace(run, findings=findings, failure=failure))
    judgement = replace(report.judgement, reasons=tuple(map(renamed, report.judgement.reasons)))
    return replace(report, subject=replace(report.subject, path=address), judgement=judgement, runs=tuple(runs))
