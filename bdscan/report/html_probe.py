"""One probe's part of the page: what it asks, what it found, the pictures, and where it failed."""

from __future__ import annotations

from collections.abc import Iterator

from bdscan.facts.finding import Finding, Level, Run
from bdscan.method import registry
from bdscan.report import Report, charts, numbers, pictures, words
from bdscan.report.markup import Allowance, Markup, join, prose, tag

_NOT_PROBES = {
    "load": "Reading the file and building the net it belongs to.",
    "preflight": "Whether the model and the clean images allow a judgement at all.",
}


def section(report: Report, run: Run, art: Allowance, text: Allowance) -> Markup:
    """Pictures count against `art`, words against `text`; the numbers that do not fit are in the JSON report."""
    articles = [article(report, finding, art, text) for finding in words.ranked(run)]
    worst = max((finding.level for finding in run.findings), default=Level.NOTE)
    return tag(
        "section",
        tag(
            "h2",
            run.probe,
            chip("failed") if run.failure is not None else None,
            chip(worst.word) if run.findings else None,
        ),
        _about(run),
        tag("p", "Stopped early: ", prose(run.failure.message), class_="failure") if run.failure is not None else None,
        *articles,
        tag("p", "Nothing to report.", class_="quiet") if not run.findings and run.failure is None else None,
        tag("p", f"{text.refused} more findings in the JSON report.", class_="quiet") if text.refused else None,
        tag("p", "More pictures were left out to keep this file small.", class_="quiet") if art.refused else None,
        class_="card probe",
    )


def _about(run: Run) -> Markup:
    is_probe = run.probe in registry.names("probes")
    summary = prose(registry.summary("probes", run.probe)) if is_probe else _NOT_PROBES.get(run.probe)
    return tag("p", summary, tag("span", f" {run.seconds:.1f} s", class_="quiet"), class_="about")


def chip(word: str) -> Markup:
    """A word in a coloured pill; the word says it, the colour only helps."""
    return tag("span", word, class_=f"chip {word.replace(' ', '-')}")


def article(
    report: Report, finding: Finding, art: Allowance, text: Allowance, most: int = pictures.PER_FINDING
) -> Markup:
    """One finding: its level, its sentence, its numbers and at `most` so many pictures."""
    facts = join(tag("span", key, " ", tag("b", value)) for key, value in _numbers(report, finding))
    message = text.admit(
        join(
            (
                tag("p", chip(finding.level.word), " ", prose(finding.message), class_="message"),
                tag("p", facts, class_="numbers") if facts else None,
            )
        )
    )
    if not message:
        return message
    drawn = join(art.admit(piece) for piece in _drawings(report, finding, most)) if art.left else None
    return tag("article", message, drawn, class_=finding.level.word)


def _numbers(report: Report, finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.score is not None:
        yield "score", numbers.number(finding.score)
        yield "threshold", "none, evidence only" if finding.threshold is None else numbers.number(finding.threshold)
    if finding.p_value is not None:
        yield "p", numbers.number(finding.p_value)
    if finding.target is not None:
        yield "target", prose(numbers.named(report, finding.target))
    if finding.layer is not None:
        yield "layer", numbers.plain(finding.layer, 120)
    if finding.channels:
        more = ", ..." if len(finding.channels) > 12 else ""
        yield "channels", ", ".join(map(str, finding.channels[:12])) + more
    if finding.demonstrated:
        yield "trigger", "shown to work on images it was not made from"


def _drawings(report: Report, finding: Finding, most: int) -> Iterator[Markup]:
    names = report.subject.names

    def name(index: int) -> str:
        return f"{index} {numbers.plain(names[index], 60)}" if index < len(names) else f"class {index}"

    if finding.classes is not None and finding.classes.scores.size:
        against = finding.threshold if finding.p_value is None else None  # that of a p-value is no place among scores
        yield charts.bars(finding.classes.scores, name, finding.target, against)
    if finding.norms is not None and finding.norms.norms.size:
        yield charts.norms(finding.norms.norms, finding.channels)
        if finding.norms.rise is not None and finding.norms.rise.size:
            yield charts.rise(finding.norms.rise, finding.channels)
    yield from pictures.strips(finding.trigger, finding.pictures, most)
