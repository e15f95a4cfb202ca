"""The models as a CycloneDX 1.6 bill of materials: each with its hash, its model card and what was found in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from bdscan import __version__
from bdscan.report import Report, modelcard, numbers, places, words
from bdscan.report.rules import Rule, rule

_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_CWE = "external/cwe/cwe-"  # how SARIF's tags name one


def render(report: Report) -> str:
    return render_all((report,))


def render_all(reports: Sequence[Report]) -> str:
    """All models in one document, that of a treatment with the original it was made from."""
    return json.dumps(document(reports), indent=2, allow_nan=False)


def document(reports: Sequence[Report]) -> dict[str, Any]:
    """The document as plain values: without a date, and with a number that follows from all the rest."""
    found = [(place, report, broken) for place, report in enumerate(reports, 1) if (broken := rule(report)) is not None]
    held = {
        "metadata": {"tools": {"components": [{"type": "application", "name": "bdscan", "version": __version__}]}},
        "components": [*map(_component, reports, range(1, len(reports) + 1)), *_data(reports)],
        "vulnerabilities": [_vulnerability(*each) for each in found if each[2].severity is not None],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(held, sort_keys=True))
    head = {"$schema": _SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{number}"}
    return {**head, "version": 1, **held}


def _component(report: Report, place: int) -> dict[str, Any]:
    path, sha256 = places.judged(report)
    treated = {} if path == report.subject.path else {"pedigree": _pedigree(report)}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model-{place}",
        **_file(path, sha256),
        "description": numbers.plain(words.sentence(report), 1000),
        **treated,
        "modelCard": modelcard.card(report),
        "properties": [{"name": f"bdscan:{name}", "value": value} for name, value in _properties(report)],
    }


def _file(path: str, sha256: str | None) -> dict[str, Any]:
    """Its name, its bytes and where it lies."""
    below = places.inside(path, places.repository())
    hashes = {} if sha256 is None else {"hashes": [{"alg": "SHA-256", "content": sha256}]}
    occurs = {"occurrences": [{"location": numbers.plain(below or path, 1000)}]}
    return {"name": numbers.plain(PurePath(path).name or path, 300), **hashes, "evidence": occurs}


def _pedigree(report: Report) -> dict[str, Any]:
    original = {"type": "machine-learning-model", **_file(report.subject.path, report.subject.sha256)}
    method = numbers.plain(report.treatment.method if report.treatment else "", 80)
    return {"ancestors": [original], "notes": f"purified by bdscan {__version__} with the method {method}"}


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "verdict", report.verdict.word
    if report.judgement.p_value is not None:
        yield "p_value", numbers.number(report.judgement.p_value)
    if report.judgement.target is not None:
        yield "target", numbers.named(report, report.judgement.target)
    if report.accepted is not None:
        yield "accepted", words.accepted(report)
    if report.baseline is not None:
        yield "baseline", report.baseline
    if report.subject.format is not None:
        yield "format", numbers.plain(report.subject.format, 300)
    yield from (("probe", run.probe if run.failure is None else f"{run.probe}, failed") for run in report.runs)
    for key in ("effort", "seed"):
        if report.made_with.get(key) is not None:
            yield key, numbers.plain(report.made_with[key], 80)


def _data(reports: Sequence[Report]) -> Iterator[dict[str, Any]]:
    """The clean images, which are the same for all models of one call."""
    for each in next((report.inputs for report in reports), ()):
        if each.role == modelcard.CLEAN:
            digests = [{"name": f"bdscan:{name}", "value": value} for name, value in each.digest.items()]
            file = _file(each.path, each.digest.get("sha256"))
            yield {"type": "data", "bom-ref": modelcard.CLEAN, **file, "properties": digests}


def _vulnerability(place: int, report: Report, broken: Rule) -> dict[str, Any]:
    """What was found, as a tool that keeps a list of known weaknesses takes it."""
    held = words.accepted(report)
    analysis = {"analysis": {"state": "exploitable", "response": ["will_not_fix"], "detail": held}} if held else {}
    return {
        "bom-ref": f"finding-{place}",
        "id": broken.id,
        "source": {"name": "bdscan"},
        "ratings": [{"severity": _severity(broken), "method": "other", "source": {"name": "bdscan"}}],
        "cwes": [int(tag.removeprefix(_CWE)) for tag in broken.tags if tag.startswith(_CWE)],
        "description": broken.short,
        "detail": numbers.plain("; ".join((words.sentence(report), *words.reasons(report))), 2000),
        "recommendation": numbers.plain(words.hint(report), 1000),
        **analysis,
        "affects": [{"ref": f"model-{place}"}],
    }


def _severity(broken: Rule) -> str:
    """GitHub's words for the number."""
    number = float(broken.severity or 0)
    return "critical" if number >= 9 else "high" if number >= 7 else "medium"
