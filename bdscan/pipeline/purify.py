"""The second verb: probe, purify, verify, write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bdscan.facts.finding import Finding, Run
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.gate.provenance import digest
from bdscan.load.contents import Contents, survey
from bdscan.method import registry
from bdscan.method.case import Case
from bdscan.method.probe import Probe
from bdscan.pipeline.inspect import look, made_with, opened, select, sensitivity_of, subject_of
from bdscan.pipeline.options import AUTO, PurifyOptions
from bdscan.pipeline.preflight import doubts_about, preflight
from bdscan.pipeline.purify_result import PurifyResult
from bdscan.pipeline.runner import OutOfTime, Runner, seeded
from bdscan.report import Report
from bdscan.verdict.judge import judge

if TYPE_CHECKING:
    from bdscan.load.assembly.loaded import Loaded
    from bdscan.method.purifier import Purified, Purifier
    from bdscan.triggers.user_trigger import UserTrigger

WORKING_SHARE = 0.8  # to work with; what is kept back settles whether it worked (UNIT keeps a fifth as well)
PROBED = 250  # images that the probes work with, as when they were calibrated
FEWEST = 40  # with fewer there is nothing to judge by
TRIGGERS = 3  # recovered ones that are put to the cleaned net; more of a kind tell nothing new


def purify(path: str, options: PurifyOptions) -> Report:
    """Take the backdoor out of one file's net, try to find it again, and write the cleaned net."""
    try:
        return _purify(path, options)
    except KeyboardInterrupt:
        raise Problem("stopped by the user; nothing was written", status=COULD_NOT_TELL) from None


def _purify(path: str, options: PurifyOptions) -> Report:
    begun = time.monotonic()
    purifiers = chosen(options)
    probes = select(replace(options, settings=_for("probes", options)))
    contents = survey(path)
    loaded, flown = _ready(contents, options)
    trigger = _known(loaded, options)
    runner = Runner(options, begun)
    case = _before(probes, contents, loaded, flown, runner, options)
    outcomes = list(_tried(purifiers, probes, case, runner, options))
    if runner.interrupted:
        raise KeyboardInterrupt
    best = min(outcomes, key=lambda outcome: outcome.rank)
    treatment = best.told(judge(case.runs).verdict, outcomes if len(purifiers) > 1 else ())
    if trigger is not None:
        treatment["notes"] += trigger.notes
        treatment["known_trigger"] = _measured(trigger, case, best, options.target)
    report = Report(
        subject=subject_of(contents, loaded),
        judgement=best.judgement,
        runs=best.runs,
        before=case.runs,
        clean_accuracy=best.accuracy.after,
        images=len(loaded.clean) if loaded.clean is not None else None,
        clean=options.clean,
        treatment=treatment,
        made_with=made_with(options, loaded, time.monotonic() - begun),
    )
    return _written(report, contents, loaded, best, options)


def chosen(options: PurifyOptions) -> list[tuple[str, Purifier]]:
    """The purifiers to try, each with its settings, the cheap before the dear."""
    rooms = (*registry.names("probes"), *registry.names("purify"))
    for name in options.settings:
        registry.known(name, list(rooms))
    given, names = _for("purify", options), [options.method]
    if options.method == AUTO:
        names = [name for name in registry.names("purify") if not registry.find("purify", name).baseline]
    pairs = [(name, registry.configure("purify", name, given.get(name, {}), options.preset)) for name in names]
    return sorted(pairs, key=lambda pair: pair[1].cost)


def _for(room: str, options: PurifyOptions) -> dict[str, Mapping[str, str]]:
    return {name: given for name, given in options.settings.items() if name in registry.names(room)}


def _ready(contents: Contents, options: PurifyOptions) -> tuple[Loaded, Run]:
    """Everything that can go wrong before the work, does so here."""
    from bdscan.write import cleaned as write

    if options.clean is None:
        raise Problem("purifying needs clean images", hint="--clean DATA", status=USAGE)
    loaded = opened(contents, options)
    write.ready(contents, loaded, options.output, onnx=options.onnx)
    clean = loaded.clean
    assert clean is not None
    if len(clean) < FEWEST:
        raise Problem(f"{len(clean)} clean images are too few to purify with", hint=f"give {FEWEST} or more")
    if len(clean.labels.unique()) < 2:
        raise Problem("the clean images are all of one class: a net trained on them forgets the others")
    doubts = doubts_about(loaded)
    hopeless = next((doubt.said for doubt in doubts if doubt.hopeless), None)
    if hopeless is not None:
        raise Problem(f"nothing to purify: {hopeless}", hint="`bdscan inspect` tells more", status=COULD_NOT_TELL)
    return loaded, preflight(loaded, doubts)


def _before(
    probes: Sequence[tuple[str, Probe]],
    contents: Contents,
    loaded: Loaded,
    flown: Run,
    runner: Runner,
    options: PurifyOptions,
) -> Case:
    """What the probes say of the suspect; `clean` and `held_out` are then those that everything else goes by."""
    assert loaded.clean is not None
    working, held_out = loaded.clean.split(WORKING_SHARE, options.seed)
    case = Case(
        contents=contents,
        suspect=loaded.suspect,
        clean=working,
        held_out=held_out,
        effort=options.effort,
        seed=options.seed,
        runs=(flown,),
    )
    return _probed(probes, case, runner)


def _probed(probes: Sequence[tuple[str, Probe]], case: Case, runner: Runner, *, checked: bool = False) -> Case:
    """The case with the probes' runs; they work with as many images as when they were calibrated, and so does the
    self-check."""
    assert case.clean is not None
    some = case.clean if len(case.clean) <= PROBED else case.clean.split(PROBED / len(case.clean), case.seed)[0]
    looked = look(list(probes), replace(case, clean=some), runner)
    return replace(case, runs=(sensitivity_of(looked, runner) if checked else looked).runs)


def _tried(
    purifiers: Sequence[tuple[str, Purifier]],
    probes: Sequence[tuple[str, Probe]],
    case: Case,
    runner: Runner,
    options: PurifyOptions,
) -> Iterator[PurifyResult]:
    """One outcome after the other, until one settles it or nothing is left to try."""
    refused, done = [], 0
    for name, purifier in purifiers:
        _stop(runner, done)
        try:
            outcome = _treat(name, purifier, probes, case, runner, last=(name, purifier) == purifiers[-1])
        except OutOfTime:
            runner.stopped = f"stopped: the budget of {options.budget:g} s is spent"
            break
        except Problem as problem:
            refused.append(problem)
            continue
        done += 1
        yield outcome
        if outcome.settled or runner.stopped:
            return
    if not done:
        _stop(runner, done)
        raise refused[0]


def _stop(runner: Runner, done: int) -> None:
    if runner.stopped and not done:
        raise Problem(f"{runner.stopped}; nothing was purified and nothing written", status=COULD_NOT_TELL)


def _treat(
    name: str, purifier: Purifier, probes: Sequence[tuple[str, Probe]], case: Case, runner: Runner, *, last: bool
) -> PurifyResult:
    """Purify, compare, and, where that looks well or nothing else is left to try, probe again."""
    begun = time.monotonic()
    with seeded(case.seed):
        treated = purifier(replace(case, held_out=None, progress=runner.progress(name)))
    outcome = _compared(name, purifier, treated, time.monotonic() - begun, case, runner)
    file = tuple(run for run in case.runs if run.probe == "preflight")
    if outcome.failed and not last:
        skipped = Run(probe="inspect", failure="not probed again, since a check had failed already")
        return replace(outcome, runs=(*file, skipped))
    after = replace(case, suspect=treated.suspect, runs=file)
    looks = [(probe, configured) for probe, configured in probes if configured.needs != "file"]
    return replace(outcome, runs=_probed(looks, after, runner, checked=True).runs)


def _compared(
    name: str, purifier: Purifier, treated: Purified, seconds: float, case: Case, runner: Runner
) -> PurifyResult:
    """What the cleaned net still knows, and whether it still obeys; the dear questions only after the cheap."""
    from bdscan.purify import _verify

    suspect, clean, held_out = case.suspect, case.clean, case.held_out
    assert suspect is not None
    assert clean is not None
    assert held_out is not None
    cleaned, triggers, woken = treated.suspect, _triggers(case), None
    progress = runner.progress("verify")
    with seeded(case.seed):
        accuracy = _verify.compare(suspect, cleaned, held_out)
        obeyed = _verify.trigger_outcomes(
            suspect, cleaned, clean, held_out, triggers, seed=case.seed, progress=progress
        )
        checks = tuple(_verify.checks(accuracy, obeyed, None, suspect.name))
        if triggers and all(check.passed is not False for check in checks):
            woken = _verify.reactivation(cleaned, clean, held_out, triggers[0], seed=case.seed, progress=progress)
            checks = tuple(_verify.checks(accuracy, obeyed, woken, suspect.name))
    return PurifyResult(
        method=name,
        settings=registry.settings(purifier),
        treated=treated,
        seconds=seconds,
        accuracy=accuracy,
        obeyed=obeyed,
        checks=checks,
        woken=woken,
    )


def _triggers(case: Case) -> tuple[Finding, ...]:
    """The triggers that were shown, one of a form and class: what a cleaned net has to withstand.

    Others are left out, since clean nets have natural triggers too and are no sicker for it.
    """
    found = [f for f in case.triggers() if f.shown and f.target is not None]
    return tuple({(f.form, f.target): f for f in found}.values())[:TRIGGERS]


def _known(loaded: Loaded, options: PurifyOptions) -> UserTrigger | None:
    from bdscan.triggers import user_trigger

    if options.trigger is None:
        return None
    if options.target is not None and options.target >= loaded.suspect.classes:
        raise Problem(f"there is no class {options.target}: the net has {loaded.suspect.classes}", status=USAGE)
    return user_trigger.read(options.trigger, loaded.suspect.shape)


def _measured(trigger: UserTrigger, case: Case, best: PurifyResult, target: int | None) -> dict[str, object]:
    """ACC, ASR, RA and DER, for somebody who has the trigger; nothing was chosen by them."""
    from bdscan.triggers import user_trigger

    suspect, held_out = case.suspect, case.held_out
    assert suspect is not None
    assert held_out is not None
    before = user_trigger.measure(suspect, trigger, held_out, target)
    after = user_trigger.measure(best.treated.suspect, trigger, held_out, before.target)
    return {
        "file": trigger.file,
        "target": before.target,
        "accuracy": {"before": before.accuracy, "after": after.accuracy},
        "asr": {"before": before.asr, "after": after.asr},
        "ra": {"before": before.ra, "after": after.ra},
        "der": user_trigger.der(before, after),
    }


def _written(report: Report, contents: Contents, loaded: Loaded, best: PurifyResult, options: PurifyOptions) -> Report:
    from bdscan.write.card import card
    from bdscan.write.cleaned import write

    done = write(contents, loaded, best.treated.suspect, options.output, card=card(report), onnx=options.onnx)
    treatment: dict[str, Any] = dict(report.treatment or {})
    notes = [*treatment["notes"], *done.notes]
    files = [{"path": str(path), "digest": digest(path)} for path in done.files]
    told = {"output": str(done.output), "sha256": done.sha256, "files": files, "notes": notes}
    return replace(report, treatment={**treatment, **told})
