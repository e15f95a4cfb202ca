"""The report for a pull request or a job summary: the verdict, a table of probes, the reasons; never over 60 kB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bdscan.facts.finding import Level
from bdscan.report import Report, numbers, training_text, treatment_text, words

_MAX_BYTES = 60_000  # bytes: GitHub takes 65,536 characters in a comment and 1 MiB in a job summary
_MAX_LIST_BYTES = 11_000  # bytes for each of the long lists; with the rest cut to size one report stays below the whole
_MAX_SHORT_LIST_BYTES = 4_000  # for each of the four lists that only a treatment has
_MAX_TEXT = 400
_PIPE = "\\|"


def render_all(reports: Sequence[Report]) -> str:
    """One report as it is; of several the verdicts, the gravest first, then as many reports as fit."""
    if len(reports) == 1:
        return render(reports[0])
    gravest = sorted(reports, key=lambda report: -report.verdict)
    lines = [f"### bdscan: {len(reports)} models", "", "| verdict | file | |", "|---|---|---|"]
    rows = ((f"**{each.verdict.word}**", _code(each.subject.path), _prose(_remark(each))) for each in gravest)
    parts = ["\n".join([*lines, *_within((_row(*cells) for cells in rows), "more models", _MAX_LIST_BYTES)])]
    left = _MAX_BYTES - len(parts[0].encode())
    for written, report in enumerate(gravest):
        part = render(report)
        left -= len(part.encode()) + 100  # and what joins it to the others
        if left < 0:
            parts.append(f"{len(gravest) - written} more reports in the JSON report")
            break
        parts.append(part)
    return "\n\n".join(parts)


def render(report: Report) -> str:
    """No pictures, no links, and nothing a stranger's class name could turn into either."""
    lines = [*_head(report), *_treated(report), *_trained(report)]
    lines += ["| probe | level | finding | score | threshold | p |", "|---|---|---|--:|--:|--:|"]
    lines += [*_within(_table(report), "more rows", _MAX_LIST_BYTES), ""]
    reasons = words.reasons(report)
    if reasons:
        lines += ["**Because**", ""]
        lines += [*_within((f"- {_prose(reason)}" for reason in reasons), "more reasons", _MAX_LIST_BYTES), ""]
    return "\n".join([*lines, f"**Next:** {_prose(words.hint(report), 1000)}"])


def _remark(report: Report) -> str:
    """What the table of all models says beside the verdict."""
    if unchanged := words.unchanged(report):
        return f"known: {unchanged}"
    reason = words.accepted(report)
    return f"accepted {reason}" if reason else "; ".join((words.sentence(report), *report.refused, *report.unmet))


def _treated(report: Report) -> Iterator[str]:
    """Nothing, where nothing was treated."""
    yield from _list("Treatment", (f"- {label}: {_prose(line)}" for label, line in treatment_text.done(report)))
    changed = [_row(*map(_prose, change)) for change in treatment_text.measured(report)]
    yield from _list("", changed, "| | before | after |", "|---|--:|--:|")
    checks = (f"- **{check.word}**: {_prose(check.message)}" for check in treatment_text.checks(report))
    yield from _list("Checks", checks)
    tried = [_row(*map(_prose, trial)) for trial in treatment_text.tried(report)]
    head = "| tried | time | clean accuracy | recovered trigger | outcome | why |"
    yield from _list("", tried, head, "|---|--:|--:|--:|---|---|")


def _trained(report: Report) -> Iterator[str]:
    """Nothing, where nothing was trained."""
    yield from _list("Training", (f"- {label}: {_prose(line)}" for label, line in training_text.lines(report)))


def _list(title: str, rows: Iterable[str], *head: str) -> Iterator[str]:
    lines = [*_within(rows, "more rows", _MAX_SHORT_LIST_BYTES)]
    if lines:
        yield from (f"**{title}**", "") if title else ()
        yield from (*head, *lines, "")


def _head(report: Report) -> Iterator[str]:
    judgement, subject = report.judgement, report.subject
    unsaid = judgement.p_value is None or report.treatment is not None
    p_value = "" if unsaid else f" (p = {numbers.number(judgement.p_value)})"
    yield f"### bdscan: {report.verdict.word}"
    yield ""
    yield f"{_prose(words.sentence(report).capitalize())}{p_value}."
    yield ""
    yield f"- file: {_code(subject.path)}" + (f", sha256 {_code(subject.sha256)}" if subject.sha256 else "")
    yield f"- model: {_prose(words.model(report))}"
    yield f"- clean images: {_prose(words.clean_data(report))}"
    if judgement.target is not None:
        yield f"- target: {_prose(numbers.named(report, judgement.target))}"
    if report.accepted:
        yield f"- accepted: {_prose(words.accepted(report))}"
    if words.unchanged(report):
        yield f"- known: {words.unchanged(report)}"
    yield ""


def _table(report: Report) -> Iterator[str]:
    for run in report.runs:
        if run.failure is not None:
            yield _row(_code(run.probe), "**failed**", _prose(run.failure.message), "-", "-", "-")
        elif not run.findings:
            yield _row(_code(run.probe), "-", "nothing to report", "-", "-", "-")
        for finding in words.ranked(run):
            level = "-" if finding.level is Level.NOTE else f"**{finding.level.word}**"
            measured = (numbers.number(value) for value in (finding.score, finding.threshold, finding.p_value))
            yield _row(_code(run.probe), level, _prose(finding.message), *measured)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', _PIPE) for cell in cells)} |"


def _within(lines: Iterable[str], what: str, left: int) -> Iterator[str]:
    """As many lines as fit, then how many did not."""
    dropped = 0
    for line in lines:
        left -= len(line.encode()) + 1
        if left > 0:
            yield line
        else:
            dropped += 1
    if dropped:
        yield f"\n{dropped} {what} in the JSON report"


def _prose(text: str, limit: int = _MAX_TEXT) -> str:
    """Words as words, literals in backticks as code."""
    parts = numbers.plain(text, limit).split("`")
    if len(parts) % 2 == 0:  # a backtick without its fellow
        parts[-2:] = ["'".join(parts[-2:])]
    return "".join(_code(part) if place % 2 else _escape(part) for place, part in enumerate(parts))


def _code(text: str) -> str:
    inner = numbers.plain(text, _MAX_TEXT).replace("`", "'")
    return f"`{inner}`" if inner.strip() else ""


def _escape(text: str) -> str:
    for mark in "\\*_[]<>~#":
        text = text.replace(mark, f"\\{mark}")
    # no one is mentioned and no address becomes a link
    return (
        text.replace("&", "&amp;").replace("@", "@&#8203;").replace("://", ":&#8203;//").replace("www.", "www&#8203;.")
    )
