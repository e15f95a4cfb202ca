"""What a treated report opens with: what was done, changed and checked, and before beside after in pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bdscan.facts.evidence import Array, MaskedPattern
from bdscan.facts.finding import Finding, Run
from bdscan.report import Report, treatment_text, words
from bdscan.report.html_probe import article, chip
from bdscan.report.markup import Allowance, Markup, definitions, join, prose, table, tag

_PAIRS = 8
_PICTURES = 7  # of one finding: a trigger and two images with it, or three heat maps
_TRIED = ("tried", "time", "clean accuracy", "recovered trigger works", "outcome", "why")


class Pair(NamedTuple):
    """What a probe drew before, and what it drew after if it did."""

    run: Run
    before: Finding
    after: Finding | None


def section(report: Report, art: Allowance, text: Allowance) -> Markup | None:
    """Nothing, where nothing was treated."""
    if report.treatment is None:
        return None
    notes = join(tag("li", prose(note)) for note in treatment_text.notes(report))
    changed, tried = treatment_text.measured(report), treatment_text.tried(report)
    beside = join(_beside(report, pair, art, text) for pair in pairs(report))
    return tag(
        "section",
        tag("h2", "Before and after"),
        definitions((label, prose(line)) for label, line in treatment_text.done(report)),
        tag("ul", notes, class_="notes") if notes else None,
        table(("", "before", "after"), (tuple(map(prose, row)) for row in changed), "compare") if changed else None,
        _checks(report),
        table(_TRIED, tried, "tried") if tried else None,
        beside,
        tag("p", "More pictures were left out to keep this file small.", class_="quiet") if art.refused else None,
        class_="card treated",
    )


def _checks(report: Report) -> Markup | None:
    put = treatment_text.checks(report)
    words_and_messages = (tag("li", chip(check.word), tag("span", prose(check.message))) for check in put)
    return join((tag("h3", "Checks"), tag("ul", *words_and_messages, class_="checks"))) if put else None


def pairs(report: Report) -> list[Pair]:
    """Each probe's most telling pair first, then its next."""
    found = [(place, pair) for run in report.before for place, pair in enumerate(_pairs(report, run))]
    found.sort(key=lambda each: (each[0], -each[1].before.level))
    return [pair for _, pair in found[:_PAIRS]]


def _pairs(report: Report, run: Run) -> Iterator[Pair]:
    """Each drawn finding beside its like, where one of the same class comes before one of another."""
    drawn = [finding for finding in words.ranked(run) if _kinds(finding)]
    again = [finding for later in report.runs if later.probe == run.probe for finding in later.findings]
    alike = [(mine, other) for mine in drawn for other in again if _kinds(mine) & _kinds(other)]
    alike.sort(key=lambda two: (two[0].target != two[1].target, two[0].layer != two[1].layer))
    twins: dict[int, Finding] = {}
    for mine, other in alike:
        if id(mine) not in twins and all(other is not taken for taken in twins.values()):
            twins[id(mine)] = other
    for mine in drawn:
        yield Pair(run, mine, twins.get(id(mine)))


def _kinds(finding: Finding) -> set[str]:
    """What kinds of drawing the finding brings."""
    pictures, trigger = finding.pictures, finding.trigger
    masked = trigger is not None and isinstance(trigger.pixels, MaskedPattern)
    brings = {
        "trigger": masked or (pictures is not None and (_holds(pictures.stamped) or _holds(pictures.place))),
        "heat": pictures is not None and _holds(pictures.heat),
        "channels": finding.norms is not None and _holds(finding.norms.norms),
        "scores": finding.classes is not None and _holds(finding.classes.scores),
    }
    return {kind for kind, there in brings.items() if there}


def _holds(array: Array | None) -> bool:
    return array is not None and bool(array.size)


def _beside(report: Report, pair: Pair, art: Allowance, text: Allowance) -> Markup:
    run, before, after = pair
    absent = tag("p", prose(_absent(report, run)), class_="quiet")
    left = article(report, before, art, text, _PICTURES)
    right = article(report, after, art, text, _PICTURES) if after else absent
    columns = (tag("div", tag("h4", when), side) for when, side in (("Before", left), ("After", right)))
    return tag("div", tag("h3", run.probe), tag("div", *columns, class_="pair"), class_="beside")


def _absent(report: Report, run: Run) -> str:
    again = next((each for each in report.runs if each.probe == run.probe), None)
    if again is None:
        return f"`{run.probe}` was not run on the treated model."
    return "Nothing of the kind was found." if again.failure is None else f"Stopped early: {again.failure.message}"
