"""The second verb: probe, purify, verify, write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bdscan.facts.deadline import OutOfTime, within
from bdscan.facts.failure import Failure, FailureKind
from bdscan.facts.finding import Finding, Run
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.facts.treatment import Change, Treatment, UserTriggerOutcome, WrittenFile
from bdscan.gate.provenance import digest
from bdscan.load.contents import Contents, survey
from bdscan.method import registry
from bdscan.method.case import ImageCase, PurifyCase
from bdscan.pipeline.options import AUTO, PurifyOptions
from bdscan.pipeline.preflight import doubts_about, preflight
from bdscan.pipeline.probing import Probes, image_case, look, of_net, select
from bdscan.pipeline.purify_result import PurifyResult
from bdscan.pipeline.runner import Runner, out_of_time, seeded
from bdscan.pipeline.subject import made_with, open_net, subject_of
from bdscan.report import Report
from bdscan.verdict.judge import judge

if TYPE_CHECKING:
    from bdscan.images.image_set import ImageSet
    from bdscan.load.assembly.loaded import Loaded
    from bdscan.method.purifier import Purified, Purifier
    from bdscan.net.classifier import Classifier
    from bdscan.triggers.user_trigger import UserTrigger

WORKING_SHARE = 0.8  # to work with; what is kept back settles whether it worked (UNIT keeps a fifth as well)
PROBED = 250  # images that the probes work with, as when they were calibrated
MIN_IMAGES = 40  # with fewer there is nothing to judge by
MAX_TRIGGERS = 3  # recovered ones that are put to the cleaned net; more of a kind tell nothing new


def purify(path: str, options: PurifyOptions) -> Report:
    """Take the backdoor out of one file's net, try to find it again, and write the cleaned net."""
    begun = time.monotonic()
    try:
        with within(options.budget, begun):
            return _purify(path, options, begun)
    except KeyboardInterrupt:
        raise Problem("stopped by the user; nothing was written", status=COULD_NOT_TELL) from None
    except OutOfTime:
        raise Problem(
            f"{out_of_time(options)}; nothing was purified and nothing written", status=COULD_NOT_TELL
        ) from None


def _purify(path: str, options: PurifyOptions, begun: float) -> Report:
    purifiers = chosen(options)
    probes = select(replace(options, settings=_for("probes", options)))
    contents = survey(path)
    loaded, clean, flown = _ready(contents, options)
    trigger = _user_trigger(loaded, options)
    runner = Runner(options)
    working, held_out = clean.split(WORKING_SHARE, options.seed)
    case = image_case(loaded.suspect, working, held_out, (flown,), options)
    case = replace(case, runs=look(of_net(probes), _as_calibrated(case), runner))
    results = list(_tried(purifiers, probes, case, runner))
    if runner.interrupted:
        raise KeyboardInterrupt
    best = replace(min(results, key=lambda result: result.rank), precaution=options.precaution)
    treatment = best.treatment(judge(case.runs).verdict, results if len(purifiers) > 1 else ())
    if trigger is not None:
        treatment = _measured(treatment, trigger, case, best.purified.suspect, options.target)
    report = Report(
        subject=subject_of(contents, loaded),
        judgement=best.judgement,
        runs=best.runs,
        before=case.runs,
        clean_accuracy=best.accuracy.after,
        images=len(clean),
        clean=options.clean,
        treatment=treatment,
        made_with=made_with(options, loaded, time.monotonic() - begun),
    )
    return replace(report, treatment=_written(report, treatment, contents, loaded, best.purified.suspect, options))


def chosen(options: PurifyOptions) -> list[tuple[str, Purifier]]:
    """The purifiers to try, each with its settings, the cheap before the dear."""
    rooms = (*registry.names("probes"), *registry.names("purify"))
    for name in options.settings:
        registry.check_name(name, list(rooms))
    given, names = _for("purify", options), [options.method]
    if options.method == AUTO:
        names = [name for name in registry.names("purify") if not registry.find("purify", name).baseline]
    pairs = [(name, registry.configure("purify", name, given.get(name, {}), options.preset)) for name in names]
    return sorted(pairs, key=lambda pair: pair[1].cost)


def _for(room: str, options: PurifyOptions) -> dict[str, Mapping[str, str]]:
    return {name: given for name, given in options.settings.items() if name in registry.names(room)}


def _ready(contents: Contents, options: PurifyOptions) -> tuple[Loaded, ImageSet, Run]:
    """Everything that can go wrong before the work, does so here."""
    from bdscan.write import cleaned

    if options.clean is None:
        raise Problem("purifying needs clean images", hint="--clean DATA", status=USAGE)
    loaded = open_net(contents, options)
    for note in cleaned.ready(contents, loaded, options.output, onnx=options.onnx):
        options.tell(note)
    clean = loaded.clean
    assert clean is not None
    if len(clean) < MIN_IMAGES:
        raise Problem(f"{len(clean)} clean images are too few to purify with", hint=f"give {MIN_IMAGES} or more")
    if len(clean.labels.unique()) < 2:
        raise Problem("the clean images are all of one class: a net trained on them forgets the others")
    doubts = doubts_about(loaded)
    hopeless = next((doubt.message for doubt in doubts if doubt.hopeless), None)
    if hopeless is not None:
        raise Problem(f"nothing to purify: {hopeless}", hint="`bdscan inspect` tells more", status=COULD_NOT_TELL)
    return loaded, clean, preflight(loaded, doubts)


def _as_calibrated(case: ImageCase) -> ImageCase:
    """The same with no more images to work with than the probes had when they were calibrated."""
    if len(case.clean) <= PROBED:
        return case
    return replace(case, clean=case.clean.split(PROBED / len(case.clean), case.seed)[0])


def _tried(
    purifiers: Sequence[tuple[str, Purifier]], probes: Probes, case: ImageCase, runner: Runner
) -> Iterator[PurifyResult]:
    """One result after the other, until one settles it or nothing is left to try."""
    refused, done = list[Problem](), 0
    for name, purifier in purifiers:
        _stop(runner, done)
        try:
            result = _treat(name, purifier, probes, case, runner, last=(name, purifier) == purifiers[-1])
        except OutOfTime:
            runner.stopped = out_of_time(runner.options)
            break
        except Problem as problem:
            refused.append(problem)
            continue
        done += 1
        yield result
        if result.settled or runner.stopped is not None:
            return
    if not done:
        _stop(runner, done)
        raise refused[0]


def _stop(runner: Runner, done: int) -> None:
    if runner.stopped is not None and not done:
        raise Problem(f"{runner.stopped}; nothing was purified and nothing written", status=COULD_NOT_TELL)


def _treat(
    name: str, purifier: Purifier, probes: Probes, case: ImageCase, runner: Runner, *, last: bool
) -> PurifyResult:
    """Purify, compare, and, where that looks well or nothing else is left to try, probe again."""
    from bdscan.pipeline.self_check import checked

    begun = time.monotonic()
    given = PurifyCase(
        suspect=case.suspect,
        clean=case.clean,
        runs=case.runs,
        effort=case.effort,
        seed=case.seed,
        progress=runner.progress(name),
    )
    with seeded(case.seed):
        purified = purifier(given)
    result = _compared(name, purifier, purified, time.monotonic() - begun, case, runner)
    flown = case.runs[:1]  # the preflight
    if result.failed and not last:
        why = Failure(FailureKind.SKIPPED, "not probed again, since a check had failed already")
        return replace(result, runs=(*flown, Run(probe="inspect", failure=why)))
    after = replace(_as_calibrated(case), suspect=purified.suspect, runs=flown, subspaces={})
    runs = look(of_net(probes), after, runner)
    checked_too = checked(replace(after, runs=runs), runner)
    self_check = checked_too[-1] if len(checked_too) > len(runs) else None
    return replace(result, runs=checked_too, self_check=self_check)


def _compared(
    name: str, purifier: Purifier, purified: Purified, seconds: float, case: ImageCase, runner: Runner
) -> PurifyResult:
    """What the cleaned net still knows, and whether it still obeys; the dear questions only after the cheap."""
    from bdscan.purify import _verify

    suspect, triggers, woken = case.suspect, _triggers(case), None
    after = replace(case, suspect=purified.suspect, progress=runner.progress("verify"))
    with seeded(case.seed):
        accuracy = _verify.compare(suspect, after.suspect, case.held_out)
        obeyed = _verify.trigger_outcomes(after, suspect, triggers)
        checks = tuple(_verify.checks(accuracy, obeyed, None, suspect.name))
        if triggers and all(check.passed is not False for check in checks):
            woken = _verify.reactivation(after, triggers[0])
            checks = tuple(_verify.checks(accuracy, obeyed, woken, suspect.name))
    return PurifyResult(
        method=name,
        settings=registry.settings(purifier),
        purified=purified,
        seconds=seconds,
        accuracy=accuracy,
        triggers=tuple(obeyed),
        checks=checks,
        reactivation=woken,
    )


def _triggers(case: ImageCase) -> tuple[Finding, ...]:
    """The triggers that were shown, one of a form and class: what a cleaned net has to withstand.

    Others are left out, since clean nets have natural triggers too and are no sicker for it.
    """
    found = {
        (finding.trigger.form, finding.target): finding
        for finding in case.triggers()
        if finding.demonstrated and finding.trigger is not None
    }
    return tuple(found.values())[:MAX_TRIGGERS]


def _user_trigger(loaded: Loaded, options: PurifyOptions) -> UserTrigger | None:
    from bdscan.triggers import user_trigger

    if options.trigger is None:
        return None
    if options.target is not None and options.target >= loaded.suspect.classes:
        raise Problem(f"there is no class {options.target}: the net has {loaded.suspect.classes}", status=USAGE)
    return user_trigger.read(options.trigger, loaded.suspect.shape)


def _measured(
    treatment: Treatment, trigger: UserTrigger, case: ImageCase, cleaned: Classifier, target: int | None
) -> Treatment:
    """With ACC, ASR, RA and DER, for somebody who has the trigger; nothing was chosen by them."""
    from bdscan.triggers import user_trigger

    before = user_trigger.measure(case.suspect, trigger, case.held_out, target)
    after = user_trigger.measure(cleaned, trigger, case.held_out, before.target)
    outcome = UserTriggerOutcome(
        file=trigger.file,
        target=before.target,
        accuracy=Change(before=before.accuracy, after=after.accuracy),
        asr=Change(before=before.asr, after=after.asr),
        ra=Change(before=before.ra, after=after.ra),
        der=user_trigger.der(before, after),
    )
    return replace(treatment, notes=(*treatment.notes, *trigger.notes), user_trigger=outcome)


def _written(
    report: Report,
    treatment: Treatment,
    contents: Contents,
    loaded: Loaded,
    cleaned: Classifier,
    options: PurifyOptions,
) -> Treatment:
    from bdscan.write.card import card
    from bdscan.write.cleaned import write

    done = write(contents, loaded, cleaned, options.output, card=card(report), onnx=options.onnx)
    return replace(
        treatment,
        notes=(*treatment.notes, *done.notes),
        output=str(done.output),
        sha256=done.sha256,
        files=tuple(WrittenFile(path=str(path), digest=digest(path)) for path in done.files),
    )
