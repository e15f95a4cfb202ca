"""The probes' turn at a file and at a net: which, in which order, with which images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from bdscan.facts.effort import EFFORTS
from bdscan.facts.failure import Failure, FailureKind
from bdscan.facts.finding import Run
from bdscan.method import registry
from bdscan.method.case import ImageCase, NetCase
from bdscan.method.probe import AnyProbe, FileProbe, ImageProbe, in_order
from bdscan.pipeline.options import Options
from bdscan.pipeline.runner import Runner

if TYPE_CHECKING:  # a file can be scanned without torch
    from bdscan.images.image_set import ImageSet
    from bdscan.net.classifier import Classifier

Probes = list[tuple[str, AnyProbe]]  # by name, in the order in which they run

WORKING_SHARE = 0.5  # to work with; a trigger's success is measured on the rest, which it was not made from


def select(options: Options) -> Probes:
    """The probes to run, each with its settings."""
    for name in options.settings:
        if name not in registry.names("probes"):
            registry.find("probes", name)  # raises, with the nearest name
    configured = _configured(options.probes or registry.names("probes"), options)
    if not any(isinstance(probe, FileProbe) for probe in configured.values()):
        everything = _configured(registry.names("probes"), options)  # what a file does is told, whatever was asked for
        configured |= {name: probe for name, probe in everything.items() if isinstance(probe, FileProbe)}
    reach = EFFORTS.index(options.effort)
    return ordered(configured, lambda probe: bool(options.probes) or EFFORTS.index(probe.effort) <= reach)


def _configured(wanted: Iterable[str], options: Options) -> dict[str, AnyProbe]:
    return {name: registry.configure("probes", name, options.settings.get(name, {})) for name in dict.fromkeys(wanted)}


def ordered(probes: dict[str, AnyProbe], wanted: Callable[[AnyProbe], bool]) -> Probes:
    """Those that are wanted, in an order in which none runs before one whose findings it uses."""
    kept = {name: probe for name, probe in probes.items() if wanted(probe)}
    return [(name, kept[name]) for name in in_order(kept)]


def left_out(options: Options) -> tuple[Run, ...]:
    """What keeps a look by hand-picked probes from calling a net clean: those of the effort that did not look."""
    if not options.probes:
        return ()
    everything = of_net(select(replace(options, probes=(), settings={})))
    missing = [name for name, _ in everything if name not in options.probes]
    if not missing:
        return ()
    message = f"by choice {_listed(missing)} did not look, and without them no net is called clean"
    return (Run(probe="choice", failure=Failure(FailureKind.SKIPPED, message)),)


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def of_net(probes: Probes) -> Probes:
    """Those that look at more than the file."""
    return [(name, probe) for name, probe in probes if not isinstance(probe, FileProbe)]


def net_case(suspect: Classifier, clean: ImageSet | None, runs: tuple[Run, ...], options: Options) -> NetCase:
    """What the probes of a net are given: an `ImageCase` where there are clean images."""
    if clean is None:
        return NetCase(suspect=suspect, runs=runs, effort=options.effort, seed=options.seed)
    working, held_out = clean.split(WORKING_SHARE, options.seed)
    return image_case(suspect, working, held_out, runs, options)


def image_case(
    suspect: Classifier, working: ImageSet, held_out: ImageSet, runs: tuple[Run, ...], options: Options
) -> ImageCase:
    """Where a split left nothing to judge by, the images that are worked with have to serve."""
    judged_by = held_out if len(held_out) else working
    return ImageCase(
        suspect=suspect, clean=working, held_out=judged_by, runs=runs, effort=options.effort, seed=options.seed
    )


def look(probes: Iterable[tuple[str, AnyProbe]], case: NetCase, runner: Runner) -> tuple[Run, ...]:
    """All runs: those of the case and each probe's turn at the net, until something stops them."""
    from bdscan.net.merged_norms import with_norms_merged

    case = replace(case, suspect=with_norms_merged(case.suspect))
    for name, probe in probes:
        if runner.stopped is not None:
            return (*case.runs, Run(probe=name, family=probe.family, failure=runner.stopped))
        if isinstance(probe, ImageProbe) and not isinstance(case, ImageCase):
            failure = Failure(FailureKind.SKIPPED, "needs clean images (`--clean`)")
            run = Run(probe=name, family=probe.family, settings=registry.settings(probe), failure=failure)
        else:
            run = runner.probe(name, probe, case)
        case = replace(case, runs=(*case.runs, run))
    return case.runs
