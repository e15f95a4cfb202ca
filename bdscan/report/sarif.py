"""The reports for code scanning: one SARIF 2.1.0 document, one run, one result for each model that is not clean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bdscan import __version__
from bdscan.report import Report, numbers, places, words
from bdscan.report.json import Json, tame
from bdscan.report.rules import RULES, Rule, fingerprint, rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_MAX_RESULTS = 5_000  # results a run: GitHub shows no more, and refuses a file with more than 25,000
_MAX_MESSAGE = 1_500  # characters: 5,000 times that stays below the 10 MB, compressed, that GitHub takes
_MAX_NOTIFICATIONS = 1_000
_TAGS = ("security", "machine-learning", "supply-chain")  # GitHub shows ten a rule


def render_all(reports: Sequence[Report]) -> str:
    """All models in one run: GitHub refuses several runs of one tool and category."""
    return json.dumps(document(reports), indent=2, allow_nan=False)


def document(reports: Sequence[Report]) -> Json:
    """The log as plain values; nothing in it differs from one run to the next while the models stay the same."""
    root = places.repository()
    broken = [(kind, report) for report in reports if (kind := rule(report)) is not None]
    broken.sort(key=lambda pair: RULES.index(pair[0]))
    notes = [note for report in reports for note in _notifications(report, root)]
    if len(broken) > _MAX_RESULTS:
        notes.insert(0, _notification(f"{len(broken) - _MAX_RESULTS} more results are in the JSON report", "warning"))
    run = {
        "tool": {"driver": {"name": "bdscan", "version": __version__, "rules": [_rule(each) for each in RULES]}},
        "automationDetails": {"id": _category(reports)},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not any(words.unread(report) for report in reports),
                "toolExecutionNotifications": notes[:_MAX_NOTIFICATIONS],
            }
        ],
        "artifacts": _once(_artifact(report, root) for report in reports[:_MAX_RESULTS]),
        "results": [_result(kind, report, root) for kind, report in broken[:_MAX_RESULTS]],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _category(reports: Sequence[Report]) -> str:
    """What GitHub tells one analysis from another by: up to the last slash."""
    treated = any(report.treatment is not None for report in reports)
    return "bdscan/purify/" if treated else "bdscan/inspect/"


def _rule(each: Rule) -> Json:
    severity = {} if each.severity is None else {"security-severity": each.severity}
    return {
        "id": each.id,
        "name": each.name,
        "shortDescription": {"text": each.short},
        "fullDescription": {"text": each.full},
        "help": {"text": each.help.replace("`", "'"), "markdown": each.help},
        "defaultConfiguration": {"level": each.level},
        "properties": {"tags": [*_TAGS, *each.tags], "precision": each.precision, **severity},
    }


def _result(broken: Rule, report: Report, root: Path) -> Json:
    path, sha256 = places.judged(report)
    location = _location(path, root)
    judged = {
        "verdict": report.verdict.word,
        "p_value": report.judgement.p_value,
        "target": report.judgement.target,
        "images": report.images,
        "clean_accuracy": report.clean_accuracy,
    }
    suppressed = report.accepted and {"kind": "external", "justification": _literal(words.accepted(report))}
    return {
        "ruleId": broken.id,
        "ruleIndex": RULES.index(broken),
        "level": broken.level,
        "message": {"text": _message(report)},
        "locations": [{"physicalLocation": {"artifactLocation": location, "region": {"startLine": 1}}}],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint(broken.id, sha256 or location["uri"])},
        "properties": tame(judged),
        **({"suppressions": [suppressed]} if suppressed else {}),
        **({"baselineState": report.baseline} if report.baseline else {}),
    }


def _message(report: Report) -> str:
    """The verdict first: where there is little room, only the first sentence is shown."""
    sentences = [words.sentence(report).capitalize()]
    if report.judgement.target is not None:
        sentences.append(f"Target: {numbers.named(report, report.judgement.target)}")
    because = words.reasons(report) + words.failures(report)
    if because:
        sentences.append(f"Because: {'; '.join(because)}")
    next_ = f" Next: {numbers.plain(words.hint(report), 400)}."
    return _literal(numbers.plain(". ".join(sentences), _MAX_MESSAGE - len(next_)) + "." + next_)


def _literal(text: str) -> str:
    """Braces would be placeholders, and brackets links."""
    for mark, meant in (("\\", "\\\\"), ("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        text = text.replace(mark, meant)
    return text


def _notifications(report: Report, root: Path) -> Iterator[Json]:
    level = "error" if words.unread(report) else "warning"
    for failure in words.failures(report):
        place = {"physicalLocation": {"artifactLocation": _location(report.subject.path, root)}}
        yield {**_notification(failure, level), "locations": [place]}


def _notification(text: str, level: str) -> Json:
    return {"level": level, "message": {"text": _literal(numbers.plain(text, _MAX_MESSAGE))}}


def _artifact(report: Report, root: Path) -> Json:
    path, sha256 = places.judged(report)
    hashes = {} if sha256 is None else {"hashes": {"sha-256": sha256}}
    return {"location": _location(path, root), "roles": ["analysisTarget"], **hashes}


def _once(artifacts: Iterable[Json]) -> list[Json]:
    return [*{json.dumps(each, sort_keys=True): each for each in artifacts}.values()]


def _location(path: str, root: Path) -> dict[str, str]:
    """Relative to the repository where it lies inside, as GitHub asks; an address stays one."""
    base = {} if places.inside(path, root) is None else {"uriBaseId": "%SRCROOT%"}
    return {"uri": places.uri(path, root), **base}
