"""What a treatment did and what changed by it, in words and percent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import NamedTuple

from bdscan.report import Report
from bdscan.report.numbers import plain
from bdscan.report.told import figure, held, share, some, which


class Change(NamedTuple):
    """One thing measured before and after, as it is told."""

    what: str
    before: str
    after: str


def done(report: Report) -> list[tuple[str, str]]:
    """What was done, line by line."""
    treatment = report.treatment
    if treatment is None:
        return []
    seconds, output, sha256 = (treatment.get(key) for key in ("seconds", "output", "sha256"))
    spent = f", {float(seconds):.1f} s" if isinstance(seconds, Real) else ""
    agreement = held(treatment, "agreement")
    pushed = held(held(treatment, "reactivation"), "pushed")
    known = held(treatment, "known_trigger")
    written = f"{plain(output, 300)}" + (f" (sha256 {plain(sha256, 80)})" if sha256 else "") if output else ""
    lines = [
        ("method", f"{plain(treatment.get('method', 'not told'), 80)}{spent}"),
        ("written to", written),
        ("same answer", _agreement(agreement) if agreement else ""),
        ("small push", _pushed(pushed) if pushed else ""),
        ("given trigger", _known(report, known) if known else ""),
    ]
    return [(label, told) for label, told in lines if told]


def _agreement(agreement: Mapping[str, object]) -> str:
    same, divergence = share(agreement.get("top1")), figure(agreement.get("kl"))
    return f"on {same} of clean images as before (KL divergence {divergence})"


def _pushed(pushed: Mapping[str, object]) -> str:
    stamped, clean = share(pushed.get("stamped")), share(pushed.get("clean"))
    return f"reaches the target class from {stamped} of triggered images and from {clean} of clean ones"


def _known(report: Report, known: Mapping[str, object]) -> str:
    return f"{plain(known.get('file'), 300)} for {which(report, known)}, DER {figure(known.get('der'))}"


def notes(report: Report) -> list[str]:
    """What followed from the net and the data, and why."""
    told = (report.treatment or {}).get("notes")
    return [plain(note, 500) for note in some(told)]


def measured(report: Report) -> list[Change]:
    """Everything measured before and after."""
    treatment = report.treatment or {}
    retuned = held(held(treatment, "reactivation"), "retuned")
    control = f", control {share(retuned['control'])}" if "control" in retuned else ""
    known = held(treatment, "known_trigger")
    return [
        *_pair(treatment.get("clean_accuracy"), f"clean accuracy{_tested(held(treatment, 'clean_accuracy'))}"),
        *_triggers(report, treatment),
        *_pair(retuned, f"recovered trigger, re-tuned on a few triggered images{control}"),
        *_pair(known.get("accuracy"), "accuracy (ACC) where the given trigger is measured"),
        *_pair(known.get("asr"), "given trigger works (ASR)"),
        *_pair(known.get("ra"), "given trigger ignored, image recognised (RA)"),
        *_pair(treatment.get("verdict"), "verdict"),
    ]


def _tested(accuracy: Mapping[str, object]) -> str:
    images, p_value = accuracy.get("images"), accuracy.get("p_value")
    said = [f"{plain(images, 20)} held-out images"] if images else []
    said += [f"p = {figure(p_value)}"] if isinstance(p_value, Real) else []
    return f" ({', '.join(said)})" if said else ""


def _triggers(report: Report, treatment: Mapping[str, object]) -> Iterator[Change]:
    recovered = [each for each in some(treatment.get("recovered")) if isinstance(each, Mapping)]
    success = held(treatment, "recovered_trigger_success")
    if not recovered:
        yield from _pair(success, "recovered trigger works")
        yield from _only_after(success.get("reinverted"), "trigger of a fresh search works")
    for each in recovered:
        whose, form = which(report, each), plain(each.get("form") or "trigger", 40)
        yield from _pair(each, f"{whose}: recovered {form} works")
        yield from _only_after(each.get("recovers"), f"{whose}: images with it seen as what they are")
        yield from _only_after(each.get("reinverted"), f"{whose}: trigger of a fresh search works")


def _only_after(value: object, what: str) -> Iterator[Change]:
    if value is not None:
        yield Change(what, "-", share(value))


def _pair(two: object, what: str) -> Iterator[Change]:
    if isinstance(two, Mapping) and "before" in two and "after" in two:
        yield Change(what, share(two["before"]), share(two["after"]))
