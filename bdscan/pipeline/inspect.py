"""The first verb: load, probe, judge."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from bdscan.facts.deadline import OutOfTime, within
from bdscan.facts.failure import STOPPED, Failure, FailureKind
from bdscan.facts.finding import Level, Run
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.contents import WITH_CODE, Contents, survey
from bdscan.method.case import FileCase
from bdscan.method.probe import FileProbe
from bdscan.pipeline.options import Options
from bdscan.pipeline.preflight import doubts_about, preflight
from bdscan.pipeline.probing import Probes, left_out, look, net_case, of_net, select
from bdscan.pipeline.runner import Runner, out_of_time
from bdscan.pipeline.subject import made_with, open_net, subject_of
from bdscan.report import Report
from bdscan.verdict.judge import judge

if TYPE_CHECKING:  # a file can be scanned without torch
    from bdscan.load.assembly.loaded import Loaded

MAX_IMAGES = 1000  # more cost time and settle nothing: the probes draw a few hundred at most


def inspect(path: str, options: Options) -> Report:
    """Look at one file, run the probes, judge. Ctrl-C keeps what was found and says so."""
    begun = time.monotonic()
    with within(options.budget, begun):
        return _inspected(path, options, begun)


def _inspected(path: str, options: Options, begun: float) -> Report:
    probes = select(options)
    contents = survey(path)
    runner = Runner(options)

    def report(loaded: Loaded | None, runs: tuple[Run, ...]) -> Report:
        return Report(
            subject=subject_of(contents, loaded),
            judgement=judge(runs),
            runs=runs,
            clean_accuracy=loaded.clean_accuracy if loaded else None,
            images=len(loaded.clean) if loaded and loaded.clean is not None else None,
            clean=options.clean,
            made_with=made_with(options, loaded, time.monotonic() - begun),
        )

    runs = _of_file(probes, contents, options, runner)
    if not of_net(probes) or runner.stopped is not None:
        return report(None, (*runs, *_left_unjudged(contents)))
    options.examined(report(None, runs))
    return report(*_of_net(of_net(probes), contents, runs, runner))


def _of_file(probes: Probes, contents: Contents, options: Options, runner: Runner) -> tuple[Run, ...]:
    case = FileCase(contents=contents, effort=options.effort, seed=options.seed)
    return tuple(runner.probe(name, probe, case) for name, probe in probes if isinstance(probe, FileProbe))


def _left_unjudged(contents: Contents) -> tuple[Run, ...]:
    """Of a file that is looked at alone: code that decides what it answers is no part of what a file probe sees."""
    if contents.format not in WITH_CODE:
        return ()
    message = "its own code, which decides what it answers, was not looked at: only probes of the net judge it"
    return (Run(probe="load", failure=Failure(FailureKind.SKIPPED, message)),)


def _of_net(
    probes: Probes, contents: Contents, runs: tuple[Run, ...], runner: Runner
) -> tuple[Loaded | None, tuple[Run, ...]]:
    """What was found in the file and what is found in the net: no failure with the one costs the other."""
    options, loaded = runner.options, None
    try:
        loaded = _load(contents, options)
        doubts = doubts_about(loaded)
        runs = (*runs, preflight(loaded, doubts))
        if any(doubt.hopeless for doubt in doubts):  # whatever a probe said of it would be about something else
            return loaded, runs
        from bdscan.pipeline.self_check import checked

        case = net_case(loaded.suspect, loaded.clean, runs, options)
        runs = (*look(probes, case, runner), *left_out(options))
        return loaded, checked(replace(case, runs=runs), runner)
    except Problem as problem:
        found = any(finding.level > Level.NOTE for run in runs for finding in run.findings)
        if problem.status == USAGE and not found:
            raise
        message = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        failure = Failure(FailureKind.REFUSED, message)
    except OutOfTime:
        failure = out_of_time(options)
    except KeyboardInterrupt:
        failure = STOPPED
    except Exception as error:  # noqa: BLE001 - our own bug, which must not cost what was found
        failure = Failure.crash(error)
    return loaded, (*runs, Run(probe="load", failure=failure))


def _load(contents: Contents, options: Options) -> Loaded:
    """The net with no more images than are of use, made of the very bytes that were looked at."""
    loaded = open_net(contents, options)
    contents.check_unchanged()
    if loaded.clean is not None and len(loaded.clean) > MAX_IMAGES:
        return replace(loaded, clean=loaded.clean.split(MAX_IMAGES / len(loaded.clean), options.seed)[0])
    return loaded
