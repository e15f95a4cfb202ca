"""The first verb: load, probe, judge."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bdscan import __version__
from bdscan.facts.finding import Run, Verdict
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.contents import Contents, survey
from bdscan.method import registry
from bdscan.method.case import Case
from bdscan.method.probe import EFFORTS, Probe
from bdscan.pipeline.options import Options
from bdscan.pipeline.preflight import preflight
from bdscan.pipeline.runner import Runner
from bdscan.report import Report, Subject
from bdscan.verdict.judge import judge

if TYPE_CHECKING:  # a file can be scanned without torch
    from bdscan.load.assembly.loaded import Loaded


def inspect(path: str, options: Options) -> Report:
    """Look at one file, run the probes, judge. Ctrl-C keeps what was found and says so."""
    begun = time.monotonic()
    chosen = select(options)
    contents = survey(path)
    runner = Runner(options, begun)
    case = Case(contents=contents, effort=options.effort, seed=options.seed)
    loaded: Loaded | None = None
    file_only = [(name, probe) for name, probe in chosen if probe.needs == "file"]
    others = [(name, probe) for name, probe in chosen if probe.needs != "file"]
    for name, probe in file_only:
        case = runner.probe(name, probe, case)
    if others and not runner.stopped:
        loaded, case = _load(contents, case, options)
        if loaded is not None:
            case = sensitivity_of(look(others, _split(loaded, case, options), runner), runner)
    return Report(
        subject=subject_of(contents, loaded),
        judgement=judge(case.runs),
        runs=case.runs,
        clean_accuracy=loaded.clean_accuracy if loaded else None,
        images=len(loaded.clean) if loaded and loaded.clean is not None else None,
        clean=options.clean,
        made_with=made_with(options, loaded, time.monotonic() - begun),
    )


def select(options: Options) -> list[tuple[str, Probe]]:
    """The probes to run, each with its settings, in an order in which none runs before one whose findings it uses."""
    for name in options.settings:
        if name not in registry.names("probes"):
            registry.find("probes", name)  # raises, with the nearest name
    wanted = options.probes or tuple(registry.names("probes"))
    probes = {
        name: registry.configure("probes", name, options.settings.get(name, {})) for name in dict.fromkeys(wanted)
    }
    if not options.probes:
        reach = EFFORTS.index(options.effort)
        probes = {name: probe for name, probe in probes.items() if EFFORTS.index(probe.effort) <= reach}
    return [(name, probes[name]) for name in _sorted({name: probe.after for name, probe in probes.items()})]


def _sorted(after: Mapping[str, tuple[str, ...]]) -> list[str]:
    done: list[str] = []
    while len(done) < len(after):
        ready = [n for n in after if n not in done and all(a in done or a not in after for a in after[n])]
        if not ready:
            raise ValueError(f"probes wait for one another: {sorted(set(after) - set(done))}")
        done.append(ready[0])
    return done


def opened(contents: Contents, options: Options) -> Loaded:
    """The net in the file, and the images beside it."""
    from bdscan.images.source import open_images
    from bdscan.load.assembly.assemble import load

    return load(
        contents,
        arch=options.arch,
        normalize=options.normalize,
        images=open_images(options.clean) if options.clean else None,
        classes=options.classes,
        device=options.device,
    )


def _load(contents: Contents, case: Case, options: Options) -> tuple[Loaded | None, Case]:
    try:
        loaded = _fewer(opened(contents, options), options.seed)
    except Problem as problem:
        if problem.status == USAGE:
            raise
        said = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        return None, replace(case, runs=(*case.runs, Run(probe="load", failure=said)))
    return loaded, replace(case, runs=(*case.runs, preflight(loaded)))


def _fewer(loaded: Loaded, seed: int) -> Loaded:
    """At most `MOST_IMAGES`, drawn class by class."""
    if loaded.clean is None or len(loaded.clean) <= MOST_IMAGES:
        return loaded
    return replace(loaded, clean=loaded.clean.split(MOST_IMAGES / len(loaded.clean), seed)[0])


# Half to work with, half to be judged by: a trigger's success is measured on images it was not made from.
WORKING_SHARE = 0.5
MOST_IMAGES = 1000  # more cost time and settle nothing: the probes draw a few hundred at most


def _split(loaded: Loaded, case: Case, options: Options) -> Case:
    working, held_out = loaded.clean.split(WORKING_SHARE, options.seed) if loaded.clean is not None else (None, None)
    return replace(case, suspect=loaded.suspect, clean=working, held_out=held_out)


def look(probes: list[tuple[str, Probe]], case: Case, runner: Runner) -> Case:
    """Each probe's turn at the net, until something stops them."""
    for name, probe in probes:
        if runner.stopped:
            return replace(case, runs=(*case.runs, Run(probe=name, family=probe.family, failure=runner.stopped)))
        if probe.needs == "images" and case.clean is None:
            settings = registry.settings(probe)
            skipped = Run(probe=name, family=probe.family, settings=settings, failure="needs clean images (`--clean`)")
            case = replace(case, runs=(*case.runs, skipped))
        else:
            case = runner.probe(name, probe, case)
    return case


def sensitivity_of(case: Case, runner: Runner) -> Case:
    """Where nothing was found: would anything have been?"""
    from bdscan.pipeline import self_check

    options = runner.options
    worth_it = options.effort != "fast" and not options.probes and judge(case.runs).verdict <= Verdict.INCONCLUSIVE
    if not worth_it or runner.stopped or case.clean is None or case.held_out is None:
        return case
    if len(case.clean) + len(case.held_out) < self_check.FEWEST:
        return case

    def looked(planted: Case, names: tuple[str, ...], inversion: dict[str, str]) -> tuple[Run, ...]:
        for name in names:
            probe = registry.configure("probes", name, inversion if name == "inversion" else {})
            run = Run(probe=name, family=probe.family, findings=tuple(probe(planted)))
            planted = replace(planted, runs=(*planted.runs, run))
        return planted.runs

    case = runner.run(self_check.NAME, "", {}, lambda case: self_check.check(case, looked), case)
    run = case.runs[-1]
    failure = run.failure or self_check.unseen(run.findings)
    return replace(case, runs=(*case.runs[:-1], replace(run, failure=failure)))


def subject_of(contents: Contents, loaded: Loaded | None) -> Subject:
    """What was looked at, as the report tells it."""
    if loaded is None:
        return Subject(path=str(contents.path), sha256=contents.sha256, format=contents.format)
    return Subject(
        path=str(contents.path),
        sha256=contents.sha256,
        format=loaded.format,
        arch=loaded.arch,
        classes=loaded.suspect.classes,
        input=loaded.suspect.shape,
        normalize=loaded.normalize,
        tensors_loaded=loaded.tensors_loaded,
        tensors_total=loaded.tensors_total,
        names=loaded.suspect.names,
    )


def made_with(options: Options, loaded: Loaded | None, seconds: float) -> dict[str, Any]:
    """Versions, device, seed, seconds."""
    torch = sys.modules.get("torch")
    return {
        "bdscan": __version__,
        "torch": torch.__version__ if torch else None,
        "python": platform.python_version(),
        "device": str(loaded.suspect.device) if loaded else None,
        "effort": options.effort,
        "seed": options.seed,
        "seconds": round(seconds, 2),
    }
