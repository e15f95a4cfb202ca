"""What a treatment comes to: what was done and checked, what changed and was tried, and whether it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bdscan.facts.finding import Verdict
from bdscan.facts.treatment import Accuracy, Change, Reactivation, Treatment, Trial, UserTriggerOutcome
from bdscan.report import Report
from bdscan.report.numbers import named, number, percent, plain

PASSED, FAILED, OPEN = "passed", "failed", "not done"
MAX_LINES = 50  # of a list: as many as a reader can bear
_AFTER = {
    Verdict.CLEAN: "no probe objects to the treated model",
    Verdict.INCONCLUSIVE: "could not tell whether the treated model is rid of its backdoor",
    Verdict.SUSPICIOUS: "something in the treated model is still unusual for a clean one",
    Verdict.BACKDOORED: "the evidence says that the treated model still carries a backdoor",
}


class ChangeLine(NamedTuple):
    """One thing measured before and after, in words."""

    what: str
    before: str
    after: str


class CheckLine(NamedTuple):
    """One question put to the treated model."""

    word: str  # PASSED, FAILED or OPEN
    name: str
    message: str  # with its numbers


class TrialLine(NamedTuple):
    """One method that `auto` tried."""

    method: str
    seconds: str
    clean_accuracy: str
    success: str  # of the recovered trigger, afterwards
    outcome: str
    why: str


def sentence(report: Report) -> str:
    """What the treatment came to, as a person would say it; never the word `safe`."""
    unpassed = [check.message for check in checks(report) if check.word == FAILED]
    if unpassed:
        but = "but" if report.verdict is Verdict.CLEAN else "and"
        return f"{_AFTER[report.verdict]}, {but} {_counted(len(unpassed))}: {'; '.join(unpassed[:3])}"
    if _nothing_to_remove(report):
        return f"nothing was found to remove; treated as a precaution: {_AFTER[report.verdict]}"
    if report.verdict is Verdict.CLEAN:
        return ", ".join((*_trigger_gone(report), f"and {_AFTER[Verdict.CLEAN]}"))
    return _AFTER[report.verdict]


def _nothing_to_remove(report: Report) -> bool:
    treatment = report.treatment
    found = treatment is None or treatment.triggers or treatment.verdict_before > Verdict.INCONCLUSIVE
    return not found and report.verdict < Verdict.SUSPICIOUS


def _counted(failed: int) -> str:
    return "one check failed" if failed == 1 else f"{failed} checks failed"


def _trigger_gone(report: Report) -> Iterator[str]:
    treatment = report.treatment
    success = treatment.trigger_success if treatment else None
    if success is None:
        yield "no trigger had been recovered that could be tried again"
    elif not checks(report):  # nobody drew a line that it stays under
        before, after = percent(success.before), percent(success.after)
        yield f"the recovered trigger works on {after} of images where it worked on {before}"
    else:
        yield "the recovered trigger no longer works"
        if success.reinverted is not None:
            yield "a fresh search finds none"


def failed(report: Report) -> bool:
    """Whether the treated model failed a check."""
    return report.treatment is not None and bool(report.treatment.failed_checks)


def hint(report: Report) -> str:
    """What to do with the treated model."""
    if _nothing_to_remove(report) and report.verdict is not Verdict.CLEAN:
        return "`bdscan inspect --effort thorough` looks harder for a backdoor; with `--precaution` this counts as done"
    if report.verdict is not Verdict.CLEAN or failed(report):
        return "the backdoor could not be shown gone: try another `--method`, or more clean images"
    if report.treatment is None or not report.treatment.output:
        return "the treated model was not kept: name a file for it with `--output`"
    return "use the purified file, and keep the original: it is evidence"


def checks(report: Report) -> list[CheckLine]:
    """Every question put to the treated model, in the order in which it was put."""
    lines = []
    for check in report.treatment.checks[:MAX_LINES] if report.treatment else ():
        word = OPEN if check.passed is None else PASSED if check.passed else FAILED
        numbers = _numbers(check.score, check.threshold)
        lines.append(CheckLine(word, plain(check.name, 80), plain(check.message, 500) + numbers))
    return lines


def _numbers(score: float | None, threshold: float | None) -> str:
    if score is None:
        return ""
    return f" ({number(score)}" + (")" if threshold is None else f" vs threshold {number(threshold)})")


def _outcome(trial: Trial) -> str:
    verdict = "not judged" if trial.verdict is None else trial.verdict.word
    return f"{verdict}, {PASSED if trial.passed else FAILED}"


def tried(report: Report) -> list[TrialLine]:
    """What `auto` tried, in order."""
    return [
        TrialLine(
            plain(trial.method, 80),
            "-" if trial.seconds is None else f"{number(trial.seconds)} s",
            percent(trial.clean_accuracy),
            percent(trial.recovered_trigger_success),
            _outcome(trial),
            plain(trial.why, 500),
        )
        for trial in (report.treatment.tried[:MAX_LINES] if report.treatment else ())
    ]


def done(report: Report) -> list[tuple[str, str]]:
    """What was done, line by line."""
    treatment = report.treatment
    if treatment is None:
        return []
    written = plain(treatment.output, 300) if treatment.output else ""
    if written and treatment.sha256:
        written += f" (sha256 {plain(treatment.sha256, 80)})"
    lines = [
        ("method", f"{plain(treatment.method, 80)}, {treatment.seconds:.1f} s"),
        ("written to", written),
        ("same answer", _agreement(treatment.accuracy)),
        ("small push", _pushed(treatment.reactivation) if treatment.reactivation else ""),
        ("given trigger", _user_trigger(report, treatment.user_trigger) if treatment.user_trigger else ""),
    ]
    return [(label, line) for label, line in lines if line]


def _agreement(accuracy: Accuracy) -> str:
    divergence = number(accuracy.divergence)
    return f"on {percent(accuracy.same)} of clean images as before (KL divergence {divergence})"


def _pushed(woken: Reactivation) -> str:
    stamped, clean = percent(woken.pushed), percent(woken.pushed_control)
    return f"reaches the target class from {stamped} of triggered images and from {clean} of clean ones"


def _user_trigger(report: Report, outcome: UserTriggerOutcome) -> str:
    return f"{plain(outcome.file, 300)} for {_class(report, outcome.target)}, DER {number(outcome.der)}"


def _class(report: Report, target: int | None) -> str:
    return "an unknown class" if target is None else named(report, target)


def notes(report: Report) -> list[str]:
    """What followed from the net and the data, and why."""
    return [plain(note, 500) for note in (report.treatment.notes[:MAX_LINES] if report.treatment else ())]


def measured(report: Report) -> list[ChangeLine]:
    """Everything measured before and after."""
    treatment = report.treatment
    if treatment is None:
        return []
    accuracy = treatment.accuracy
    lines = [
        _line(f"clean accuracy{_tested(accuracy)}", Change(before=accuracy.before, after=accuracy.after)),
        *_triggers(report, treatment),
    ]
    if (woken := treatment.reactivation) is not None:
        retuned = f"recovered trigger, re-tuned on a few triggered images, control {percent(woken.retuned_control)}"
        lines.append(_line(retuned, Change(before=woken.before, after=woken.retuned)))
    if (user := treatment.user_trigger) is not None:
        lines.append(_line("accuracy (ACC) where the given trigger is measured", user.accuracy))
        lines.append(_line("given trigger works (ASR)", user.asr))
        lines.append(_line("given trigger ignored, image recognised (RA)", user.ra))
    return [*lines, ChangeLine("verdict", treatment.verdict_before.word, treatment.verdict_after.word)]


def _tested(accuracy: Accuracy) -> str:
    return f" ({accuracy.images} held-out images, p = {number(accuracy.p_value)})"


def _triggers(report: Report, treatment: Treatment) -> Iterator[ChangeLine]:
    for each in treatment.triggers[:MAX_LINES]:
        whose, form = _class(report, each.target), plain(each.form or "trigger", 40)
        yield _line(f"{whose}: recovered {form} works", Change(before=each.before, after=each.after))
        yield ChangeLine(f"{whose}: images with it seen as what they are", "-", percent(each.recovers))
        if each.reinverted is not None:
            yield ChangeLine(f"{whose}: trigger of a fresh search works", "-", percent(each.reinverted))


def _line(what: str, change: Change) -> ChangeLine:
    return ChangeLine(what, percent(change.before), percent(change.after))
