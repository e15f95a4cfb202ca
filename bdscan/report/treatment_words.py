"""What a treatment did and what changed by it, in words and percent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bdscan.facts.treatment import Accuracy, Change, Reactivation, Treatment, UserTriggerOutcome
from bdscan.report import Report
from bdscan.report.numbers import named, number, percent, plain
from bdscan.report.treatment_text import MAX_LINES


class ChangeLine(NamedTuple):
    """One thing measured before and after, in words."""

    what: str
    before: str
    after: str


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
