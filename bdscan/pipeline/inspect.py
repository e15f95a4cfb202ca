"""The first verb: load, probe, judge."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from bdscan.facts.deadline import OutOfTime, within
from bdscan.facts.failure import STOPPED, Failure, FailureKind
from bdscan.facts.finding import Run
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.contents import Contents, survey
from bdscan.method.case import FileCase
from bdscan.method.probe import FileProbe
from bdscan.pipeline.options import Options
from bdscan.pipeline.preflight import preflight
from bdscan.pipeline.probing import Probes, look, net_case, of_net, select
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
    runs = _of_file(probes, contents, options, runner)
    loaded: Loaded | None = None
    if of_net(probes) and runner.stopped is None:
        loaded, run = _load(contents, options)
        runs = (*runs, run)
        if loaded is not None:
            from bdscan.pipeline.self_check import checked

            case = net_case(loaded.suspect, loaded.clean, runs, options)
            runs = checked(replace(case, runs=look(of_net(probes), case, runner)), runner)
    return Report(
        subject=subject_of(contents, loaded),
        judgement=judge(runs),
        runs=runs,
        clean_accuracy=loaded.clean_accuracy if loaded else None,
        images=len(loaded.clean) if loaded and loaded.clean is not None else None,
        clean=options.clean,
        made_with=made_with(options, loaded, time.monotonic() - begun),
    )


def _of_file(probes: Probes, contents: Contents, options: Options, runner: Runner) -> tuple[Run, ...]:
    case = FileCase(contents=contents, effort=options.effort, seed=options.seed)
    return tuple(runner.probe(name, probe, case) for name, probe in probes if isinstance(probe, FileProbe))


def _load(contents: Contents, options: Options) -> tuple[Loaded | None, Run]:
    """The net with no more images than are of use, and the run that says whether it can be judged."""
    try:
        loaded = open_net(contents, options)
    except Problem as problem:
        if problem.status == USAGE:
            raise
        message = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        return None, Run(probe="load", failure=Failure(FailureKind.REFUSED, message))
    except OutOfTime:
        return None, Run(probe="load", failure=out_of_time(options))
    except KeyboardInterrupt:
        return None, Run(probe="load", failure=STOPPED)
    except Exception as error:  # noqa: BLE001 - our own bug, which must not cost what was found in the file
        return None, Run(probe="load", failure=Failure.crash(error))
    if loaded.clean is not None and len(loaded.clean) > MAX_IMAGES:
        loaded = replace(loaded, clean=loaded.clean.split(MAX_IMAGES / len(loaded.clean), options.seed)[0])
    return loaded, preflight(loaded)
