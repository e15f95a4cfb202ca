"""The report for a pull request or a job summary: the verdict, a table of probes, the reasons; never over 60 kB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bdscan.finding import Level
from bdscan.report import Report, words

_BUDGET = 16_000  # bytes for each of the three lists; with the rest cut to size the whole stays below 60 kB
_CUT = 400
_PIPE = "\\|"


def render(report: Report) -> str:
    """No pictures, no links, and nothing a stranger's class name could turn into either."""
    lines = [*_head(report), *_within(_table(report), "more rows"), ""]
    reasons = words.reasons(report)
    if reasons:
        lines += ["**Because**", ""]
        lines += [*_within((f"- {_prose(reason)}" for reason in reasons), "more reasons"), ""]
    changed = words.treated(report)
    if changed:
        lines += ["| treatment | before | after |", "|---|---|---|"]
        lines += [*_within((_row(*map(_prose, row)) for row in changed), "more rows"), ""]
    return "\n".join([*lines, f"**Next:** {_prose(words.hint(report), 1000)}"])


def _head(report: Report) -> Iterator[str]:
    judgement, subject = report.judgement, report.subject
    p_value = "" if judgement.p_value is None else f" (p = {words.number(judgement.p_value)})"
    yield f"### bdscan: {report.verdict.word}"
    yield ""
    yield f"{_prose(words.sentence(report).capitalize())}{p_value}."
    yield ""
    yield f"- file: {_code(subject.path)}" + (f", sha256 {_code(subject.sha256)}" if subject.sha256 else "")
    yield f"- model: {_prose(words.model(report))}"
    yield f"- clean images: {_prose(words.clean_data(report))}"
    if judgement.target is not None:
        yield f"- target: {_prose(words.named(report, judgement.target))}"
    yield ""
    yield "| probe | level | finding | score | threshold | p |"
    yield "|---|---|---|--:|--:|--:|"


def _table(report: Report) -> Iterator[str]:
    for run in report.runs:
        if run.failure is not None:
            yield _row(_code(run.probe), "**failed**", _prose(run.failure), "-", "-", "-")
        elif not run.findings:
            yield _row(_code(run.probe), "-", "nothing to report", "-", "-", "-")
        for finding in words.ranked(run):
            level = "-" if finding.level is Level.NOTE else f"**{finding.level.word}**"
            figures = (words.number(value) for value in (finding.score, finding.threshold, finding.p_value))
            yield _row(_code(run.probe), level, _prose(finding.message), *figures)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', _PIPE) for cell in cells)} |"


def _within(lines: Iterable[str], what: str) -> Iterator[str]:
    """As many lines as fit, then how many did not."""
    left, dropped = _BUDGET, 0
    for line in lines:
        left -= len(line.encode()) + 1
        if left > 0:
            yield line
        else:
            dropped += 1
    if dropped:
        yield f"\n{dropped} {what} in the JSON report"


def _prose(text: str, limit: int = _CUT) -> str:
    """Words as words, literals in backticks as code."""
    parts = words.plain(text, limit).split("`")
    if len(parts) % 2 == 0:  # a backtick without its fellow
        parts[-2:] = ["'".join(parts[-2:])]
    return "".join(_code(part) if place % 2 else _escape(part) for place, part in enumerate(parts))


def _code(text: str) -> str:
    inner = words.plain(text, _CUT).replace("`", "'")
    return f"`{inner}`" if inner.strip() else ""


def _escape(text: str) -> str:
    for mark in "\\*_[]<>~#":
        text = text.replace(mark, f"\\{mark}")
    # no one is mentioned and no address becomes a link
    return (
        text.replace("&", "&amp;").replace("@", "@&#8203;").replace("://", ":&#8203;//").replace("www.", "www&#8203;.")
    )
