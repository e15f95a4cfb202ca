"""What a treatment comes to: what was checked, what was tried, and whether it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import NamedTuple

from bdscan.facts.finding import Verdict
from bdscan.report import Report
from bdscan.report.numbers import plain
from bdscan.report.told import figure, held, share, some

PASSED, FAILED, OPEN = "passed", "failed", "not done"
_AFTER = {
    Verdict.CLEAN: "no probe objects to the treated model",
    Verdict.INCONCLUSIVE: "could not tell whether the treated model is rid of its backdoor",
    Verdict.SUSPICIOUS: "something in the treated model is still unusual for a clean one",
    Verdict.BACKDOORED: "the evidence says that the treated model still carries a backdoor",
}


class Check(NamedTuple):
    """One question put to the treated model."""

    word: str  # PASSED, FAILED or OPEN
    name: str
    message: str  # with its numbers


class Trial(NamedTuple):
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
    if report.verdict is Verdict.CLEAN:
        return ", ".join((*_shown_gone(report), f"and {_AFTER[Verdict.CLEAN]}"))
    return _AFTER[report.verdict]


def _counted(failed: int) -> str:
    return "one check failed" if failed == 1 else f"{failed} checks failed"


def _shown_gone(report: Report) -> Iterator[str]:
    treatment = report.treatment or {}
    success = held(treatment, "recovered_trigger_success")
    before, after, again = (success.get(key) for key in ("before", "after", "reinverted"))
    if not isinstance(after, Real):
        yield "no trigger had been recovered that could be tried again"
    elif not checks(report):  # nobody drew a line that it stays under
        yield f"the recovered trigger works on {share(after)} of images where it worked on {share(before)}"
    else:
        yield "the recovered trigger no longer works"
        if isinstance(again, Real):
            yield "a fresh search finds none"


def stands(report: Report) -> bool:
    """Clean, and no check failed."""
    return report.verdict is Verdict.CLEAN and not failed(report)


def failed(report: Report) -> bool:
    """Whether the treated model failed a check."""
    return any(check.word == FAILED for check in checks(report))


def hint(report: Report) -> str:
    """What to do with the treated model."""
    if not stands(report):
        return "the backdoor could not be shown gone: try another `--method`, or more clean images"
    if not (report.treatment or {}).get("output"):
        return "the treated model was not kept: name a file for it with `--output`"
    return "use the purified file, and keep the original: it is evidence"


def checks(report: Report) -> list[Check]:
    """Every question put to the treated model, in the order in which it was put."""
    told = []
    for check in some((report.treatment or {}).get("checks")):
        if isinstance(check, Mapping):
            passed = check.get("passed")
            word = OPEN if passed is None else PASSED if passed else FAILED
            name = plain(check.get("name", ""), 80)
            told.append(Check(word, name, plain(check.get("message") or name, 500) + _numbers(check)))
    return told


def _numbers(check: Mapping[str, object]) -> str:
    score, threshold = check.get("score"), check.get("threshold")
    if score is None:
        return ""
    return f" ({figure(score)}" + (")" if threshold is None else f" vs threshold {figure(threshold)})")


def tried(report: Report) -> list[Trial]:
    """What `auto` tried, in order."""
    told = []
    for trial in some((report.treatment or {}).get("tried")):
        if isinstance(trial, Mapping):
            kept = PASSED if trial.get("passed") else FAILED
            told.append(
                Trial(
                    plain(trial.get("method"), 80),
                    "-" if trial.get("seconds") is None else f"{figure(trial['seconds'])} s",
                    share(trial.get("clean_accuracy")),
                    share(trial.get("recovered_trigger_success")),
                    f"{plain(trial.get('verdict') or 'not judged', 40)}, {kept}",
                    plain(trial.get("why") or "", 500),
                )
            )
    return told
