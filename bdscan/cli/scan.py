"""From each name that was gathered to one report, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bdscan.cli import output
from bdscan.facts.failure import STOPPED, Failure
from bdscan.facts.problem import USAGE, Problem

if TYPE_CHECKING:
    from bdscan.gate.cache import Cache
    from bdscan.load.source.gather import Gathered
    from bdscan.pipeline import Options
    from bdscan.report import Report


@dataclass(frozen=True)
class Scan:
    """How every model is looked at."""

    options: Options
    cache: Cache | None
    most: float  # bytes that may be fetched for one model

    def one(self, name: str) -> Report:
        """The report on one model; its failure never stops the others."""
        from bdscan.load.source.addresses import shown
        from bdscan.load.source.fetch import local_copy

        def tell(here: int, whole: int) -> None:
            self.options.show("fetch", here, whole, shown(name))

        try:
            with local_copy(name, self.most, tell) as path:
                return _renamed(self._looked(str(path), shown(name)), str(path), shown(name))
        except Problem as problem:
            if problem.status == USAGE:
                raise
            output.say(f"{shown(name)}: {problem.message}", problem.hint)
            return output.unread(shown(name), Failure.refused(problem.message))
        except KeyboardInterrupt:
            return output.unread(shown(name), STOPPED)
        except Exception as error:  # noqa: BLE001 - a crash must never look like a finding
            output.crash()
            return output.unread(shown(name), Failure.crash(error))

    def _looked(self, path: str, name: str) -> Report:
        from bdscan import pipeline

        key = self.cache.key(path, name) if self.cache else None
        if self.cache and key and (kept := self.cache.get(key)) is not None:
            output.say(f"{name}: unchanged, the report is from the cache")
            return kept
        try:
            report = pipeline.inspect(path, self.options)
        except Problem as problem:
            raise Problem(problem.message.replace(path, name), hint=problem.hint, status=problem.status) from None
        if self.cache and key:
            try:
                self.cache.put(key, report)
            except Problem as problem:  # the report is what counts
                output.say(problem.message, problem.hint)
        return report


def opened(folder: Path, options: Options) -> Cache:
    """The cache in a folder, which need not be there yet."""
    from bdscan.gate.cache import Cache

    if folder.exists() and not folder.is_dir():
        raise Problem(f"the cache `{folder}` is not a folder", status=USAGE)
    # A report that was cut short is never kept, so the time it had does not matter.
    asked = {name: value for name, value in vars(options).items() if name not in {"show", "budget"}}
    return Cache(folder, asked)


def reports(gathered: Gathered, scan: Scan, jobs: int) -> Iterator[Report]:
    """One for each model, in the order in which they were named, and one for each name behind which there is none."""
    for path, problem in gathered.problems:
        output.say(problem.message, problem.hint)
        yield output.unread(path, Failure.refused(problem.message))
    if jobs > 1 and len(gathered.models) > 1:
        from bdscan.cli.jobs import side_by_side

        yield from side_by_side(gathered.models, scan, jobs)
        return
    stopped = False
    for name in gathered.models:
        report = unlooked(name) if stopped else scan.one(name)
        stopped = stopped or any(run.failure == STOPPED for run in report.runs)
        yield report


def unlooked(name: str) -> Report:
    """What is told of a model whose turn never came."""
    from bdscan.load.source.addresses import shown

    return output.unread(shown(name), STOPPED)


def _renamed(report: Report, path: str, name: str) -> Report:
    """A model from elsewhere is known by its address, not by the place where it lay for a moment."""
    if path == name:
        return report

    def told(message: str) -> str:
        return message.replace(path, name)

    runs = []
    for run in report.runs:
        findings = tuple(replace(finding, message=told(finding.message)) for finding in run.findings)
        failure = run.failure and replace(run.failure, message=told(run.failure.message))
        runs.append(replace(run, findings=findings, failure=failure))
    judgement = replace(report.judgement, reasons=tuple(map(told, report.judgement.reasons)))
    return replace(report, subject=replace(report.subject, path=name), judgement=judgement, runs=tuple(runs))
