"""The verbs, in order: load, probe, judge."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bdscan import __version__, method
from bdscan.case import Case
from bdscan.finding import Finding, Run, Verdict
from bdscan.judge import judge
from bdscan.load.contents import Contents, survey
from bdscan.preflight import preflight
from bdscan.probes import EFFORTS, Probe
from bdscan.problem import USAGE, Problem
from bdscan.report import Report, Subject

if TYPE_CHECKING:  # a file can be scanned without torch
    from bdscan.load import Loaded

Progress = Callable[[str, int, int, str], None]  # probe, done, total, what is being tried


class OutOfTime(Exception):
    """The budget is spent: the probe stops where it is."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for."""

    clean: str | None = None
    arch: str = "auto"
    normalize: str = "auto"
    classes: Path | None = None
    probes: tuple[str, ...] = ()  # none named: all that the effort covers
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    effort: Literal["fast", "standard", "thorough"] = "standard"
    budget: float | None = None  # seconds for one model
    device: str = "auto"
    seed: int = 0
    show: Progress = lambda probe, done, total, what: None


def inspect(path: str, options: Options) -> Report:
    """Look at one file, run the probes, judge. Ctrl-C keeps what was found and says so."""
    begun = time.monotonic()
    chosen = select(options)
    contents = survey(path)
    runner = _Runner(options, begun)
    case = Case(contents=contents, effort=options.effort, seed=options.seed)
    loaded: Loaded | None = None
    file_only = [(name, probe) for name, probe in chosen if probe.needs == "file"]
    others = [(name, probe) for name, probe in chosen if probe.needs != "file"]
    for name, probe in file_only:
        case = runner.probe(name, probe, case)
    if others and not runner.stopped:
        loaded, case = _load(contents, case, options)
        case = _probe(others, loaded, case, runner, options)
    return Report(
        subject=_subject(contents, loaded),
        judgement=judge(case.runs),
        runs=case.runs,
        clean_accuracy=loaded.clean_accuracy if loaded else None,
        images=len(loaded.clean) if loaded and loaded.clean is not None else None,
        clean=options.clean,
        made_with=_made_with(options, loaded, time.monotonic() - begun),
    )


def select(options: Options) -> list[tuple[str, Probe]]:
    """The probes to run, each with its settings, in an order in which none runs before one whose findings it uses."""
    for name in options.settings:
        if name not in method.names("probes"):
            method.find("probes", name)  # raises, with the nearest name
    wanted = options.probes or tuple(method.names("probes"))
    probes = {name: method.configure("probes", name, options.settings.get(name, {})) for name in dict.fromkeys(wanted)}
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


def _load(contents: Contents, case: Case, options: Options) -> tuple[Loaded | None, Case]:
    from bdscan.images import open_images
    from bdscan.load import load

    images = open_images(options.clean) if options.clean else None
    try:
        loaded = load(
            contents,
            arch=options.arch,
            normalize=options.normalize,
            images=images,
            classes=options.classes,
            device=options.device,
        )
    except Problem as problem:
        if problem.status == USAGE:
            raise
        said = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
        return None, replace(case, runs=(*case.runs, Run(probe="load", failure=said)))
    loaded = _fewer(loaded, options.seed)
    return loaded, replace(case, runs=(*case.runs, preflight(loaded)))


def _fewer(loaded: Loaded, seed: int) -> Loaded:
    """At most `MOST_IMAGES`, drawn class by class."""
    if loaded.clean is None or len(loaded.clean) <= MOST_IMAGES:
        return loaded
    return replace(loaded, clean=loaded.clean.split(MOST_IMAGES / len(loaded.clean), seed)[0])


# Half to work with, half to be judged by: a trigger's success is measured on images it was not made from.
WORKING_SHARE = 0.5
MOST_IMAGES = 1000  # more cost time and settle nothing: the probes draw a few hundred at most


def _probe(
    probes: list[tuple[str, Probe]], loaded: Loaded | None, case: Case, runner: _Runner, options: Options
) -> Case:
    if loaded is None:
        return case
    working, held_out = loaded.clean.split(WORKING_SHARE, options.seed) if loaded.clean is not None else (None, None)
    case = replace(case, suspect=loaded.suspect, clean=working, held_out=held_out)
    for name, probe in probes:
        if runner.stopped:
            return replace(case, runs=(*case.runs, Run(probe=name, family=probe.family, failure=runner.stopped)))
        if probe.needs == "images" and case.clean is None:
            settings = method.settings(probe)
            skipped = Run(probe=name, family=probe.family, settings=settings, failure="needs clean images (`--clean`)")
            case = replace(case, runs=(*case.runs, skipped))
        else:
            case = runner.probe(name, probe, case)
    return _sensitivity(case, runner, options)


def _sensitivity(case: Case, runner: _Runner, options: Options) -> Case:
    """Where nothing was found: would anything have been?"""
    from bdscan import sensitivity

    worth_it = options.effort != "fast" and not options.probes and judge(case.runs).verdict <= Verdict.INCONCLUSIVE
    if not worth_it or runner.stopped or case.clean is None or case.held_out is None:
        return case
    if len(case.clean) + len(case.held_out) < sensitivity.FEWEST:
        return case

    def look(planted: Case, forms: str) -> list[Finding]:
        settings = {"inversion": {"forms": forms, "contests": "0", "relabel": ""}}
        probes = [method.configure("probes", name, settings.get(name, {})) for name in sensitivity.PROBES]
        return [finding for probe in probes for finding in probe(planted)]

    case = runner.run(sensitivity.NAME, "", {}, lambda case: sensitivity.check(case, look), case)
    run = case.runs[-1]
    failure = run.failure or sensitivity.unseen(run.findings)
    return replace(case, runs=(*case.runs[:-1], replace(run, failure=failure)))


class _Runner:
    """Seeds, times, catches and names, so that no probe has to."""

    def __init__(self, options: Options, begun: float) -> None:
        self.options, self.begun = options, begun
        self.stopped = ""  # why no further probe runs

    def probe(self, name: str, probe: Probe, case: Case) -> Case:
        """One probe's turn."""
        return self.run(name, probe.family, method.settings(probe), probe, case, torch_too=probe.needs != "file")

    def run(
        self,
        name: str,
        family: str,
        settings: Mapping[str, object],
        look: Callable[[Case], Iterator[Finding]],
        case: Case,
        *,
        torch_too: bool = True,
    ) -> Case:
        """The case with one run more, whatever happens."""
        begun, findings, failure = time.monotonic(), list[Finding](), None
        with _seeded(self.options.seed, torch_too=torch_too):
            try:
                for finding in look(replace(case, progress=self._progress(name))):
                    findings.append(finding)
            except KeyboardInterrupt:
                failure = self.stopped = "stopped by the user"
            except OutOfTime:
                failure = self.stopped = f"stopped: the budget of {self.options.budget:g} s is spent"
            except Problem as problem:
                failure = problem.message
            except Exception as error:  # noqa: BLE001 - one probe's bug must not cost the others' findings
                failure = f"our fault: {type(error).__name__}: {error}"
        seconds = time.monotonic() - begun
        run = Run(
            probe=name, family=family, settings=settings, seconds=seconds, findings=tuple(findings), failure=failure
        )
        return replace(case, runs=(*case.runs, run))

    def _progress(self, name: str) -> Callable[[int, int, str], None]:
        def progress(done: int, total: int, what: str) -> None:
            self.options.show(name, done, total, what)
            if self.options.budget is not None and time.monotonic() - self.begun > self.options.budget:
                raise OutOfTime

        return progress


@contextmanager
def _seeded(seed: int, *, torch_too: bool) -> Iterator[None]:
    if not torch_too:
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _subject(contents: Contents, loaded: Loaded | None) -> Subject:
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


def _made_with(options: Options, loaded: Loaded | None, seconds: float) -> dict[str, Any]:
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
