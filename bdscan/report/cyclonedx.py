"""The models as a CycloneDX 1.6 bill of materials: each with its hash, its model card and what was found in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from bdscan import __version__
from bdscan.report import Report, numbers, places, treatment_text, words
from bdscan.report.json import Json
from bdscan.report.rules import Rule, rule

_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_CWE = "external/cwe/cwe-"  # how SARIF's tags name one
_CLEAN = "clean"  # the role of the images it was measured on
_LIMITS = (
    "No scan proves that there is no backdoor: this is what these probes found, with these images and this effort",
    "The accuracy holds for the clean images that were given, and for images like those",
)


def render_all(reports: Sequence[Report]) -> str:
    """All models in one document, that of a treatment with the original it was made from."""
    return json.dumps(document(reports), indent=2, allow_nan=False)


def document(reports: Sequence[Report]) -> Json:
    """The document as plain values: without a date, and with a number that follows from all the rest."""
    findings = [
        (place, report, broken) for place, report in enumerate(reports, 1) if (broken := rule(report)) is not None
    ]
    body = {
        "metadata": {"tools": {"components": [{"type": "application", "name": "bdscan", "version": __version__}]}},
        "components": [*map(_component, reports, range(1, len(reports) + 1)), *_data(reports)],
        "vulnerabilities": [_vulnerability(*each) for each in findings if each[2].severity is not None],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    head = {"$schema": _SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{number}"}
    return {**head, "version": 1, **body}


def _component(report: Report, place: int) -> Json:
    path, sha256 = places.judged(report)
    treated = {} if path == report.subject.path else {"pedigree": _pedigree(report)}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model-{place}",
        **_file(path, sha256),
        "description": numbers.plain(words.sentence(report), 1000),
        **treated,
        "modelCard": _card(report),
        "properties": [{"name": f"bdscan:{name}", "value": value} for name, value in _properties(report)],
    }


def _file(path: str, sha256: str | None) -> Json:
    """Its name, its bytes and where it lies."""
    below = places.inside(path, places.repository())
    hashes = {} if sha256 is None else {"hashes": [{"alg": "SHA-256", "content": sha256}]}
    occurs = {"occurrences": [{"location": numbers.plain(below or path, 1000)}]}
    return {"name": numbers.plain(PurePath(path).name or path, 300), **hashes, "evidence": occurs}


def _pedigree(report: Report) -> Json:
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


def _card(report: Report) -> Json:
    """The model card: parameters, figures and limits; what nobody knows is left out."""
    metrics = list(_metrics(report))
    return {
        "modelParameters": _parameters(report),
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        "considerations": _considerations(report),
    }


def _parameters(report: Report) -> Json:
    subject = report.subject
    parameters: Json = {"task": "image-classification"}
    if subject.arch:
        parameters["modelArchitecture"] = numbers.plain(subject.arch, 200)
    if report.images and any(each.role == _CLEAN for each in report.inputs):
        parameters["datasets"] = [{"ref": _CLEAN}]
    if subject.input:
        size = "x".join(map(str, subject.input))
        normalize = numbers.plain(subject.normalize or "unknown", 200)
        parameters["inputs"] = [{"format": f"image, {size} (channels, height, width), normalisation {normalize}"}]
    if subject.classes:
        parameters["outputs"] = [{"format": f"one number for each of {subject.classes} classes"}]
    return parameters


def _metrics(report: Report) -> Iterator[Json]:
    if report.clean_accuracy is not None:
        count = report.treatment.accuracy.images if report.treatment else report.images
        where = f"{count} clean images" + (f" from {report.clean}" if report.clean else "")
        value = f"{report.clean_accuracy:.4g}"
        yield {"type": "accuracy", "value": value, "slice": numbers.plain(where, 500)}
    success = report.treatment.trigger_success if report.treatment else None
    if success is not None:
        where = "clean images that bear the trigger recovered from the original"
        yield {"type": "recovered trigger success", "value": f"{success.after:.4g}", "slice": where}


def _considerations(report: Report) -> Json:
    sentences = [words.sentence(report), *words.reasons(report), *words.failures(report), *_LIMITS]
    limits = {"technicalLimitations": [numbers.plain(each, 500) for each in dict.fromkeys(sentences)]}
    changed = [f"{each.what}: {each.before} before, {each.after} after" for each in treatment_text.measured(report)]
    return {**limits, "performanceTradeoffs": [numbers.plain(each, 500) for each in changed]} if changed else limits


def _data(reports: Sequence[Report]) -> Iterator[Json]:
    """The clean images, which are the same for all models of one call."""
    for each in next((report.inputs for report in reports), ()):
        if each.role == _CLEAN:
            digests = [{"name": f"bdscan:{name}", "value": value} for name, value in each.digest.items()]
            file = _file(each.path, each.digest.get("sha256"))
            yield {"type": "data", "bom-ref": _CLEAN, **file, "properties": digests}


def _vulnerability(place: int, report: Report, broken: Rule) -> Json:
    """What was found, as a tool that keeps a list of known weaknesses takes it."""
    reason = words.accepted(report)
    analysis = {"analysis": {"state": "exploitable", "response": ["will_not_fix"], "detail": reason}} if reason else {}
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
