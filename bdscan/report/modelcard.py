"""What is known of a model, as CycloneDX asks for it on a model card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bdscan.report import Report, numbers, treatment_words, words

CLEAN = "clean"  # the role of the images it was measured on
_LIMITS = (
    "No scan proves that there is no backdoor: this is what these probes found, with these images and this effort",
    "The accuracy holds for the clean images that were given, and for images like those",
)


def card(report: Report) -> dict[str, Any]:
    """Parameters, figures and limits; what nobody knows is left out."""
    metrics = list(_metrics(report))
    return {
        "modelParameters": _parameters(report),
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        "considerations": _considerations(report),
    }


def _parameters(report: Report) -> dict[str, Any]:
    subject = report.subject
    told: dict[str, Any] = {"task": "image-classification"}
    if subject.arch:
        told["modelArchitecture"] = numbers.plain(subject.arch, 200)
    if report.images and any(each.role == CLEAN for each in report.inputs):
        told["datasets"] = [{"ref": CLEAN}]
    if subject.input:
        size = "x".join(map(str, subject.input))
        normalize = numbers.plain(subject.normalize or "unknown", 200)
        told["inputs"] = [{"format": f"image, {size} (channels, height, width), normalisation {normalize}"}]
    if subject.classes:
        told["outputs"] = [{"format": f"one number for each of {subject.classes} classes"}]
    return told


def _metrics(report: Report) -> Iterator[dict[str, Any]]:
    if report.clean_accuracy is not None:
        count = report.treatment.accuracy.images if report.treatment else report.images
        where = f"{count} clean images" + (f" from {report.clean}" if report.clean else "")
        value = f"{report.clean_accuracy:.4g}"
        yield {"type": "accuracy", "value": value, "slice": numbers.plain(where, 500)}
    success = report.treatment.trigger_success if report.treatment else None
    if success is not None:
        where = "clean images that bear the trigger recovered from the original"
        yield {"type": "recovered trigger success", "value": f"{success.after:.4g}", "slice": where}


def _considerations(report: Report) -> dict[str, Any]:
    said = [words.sentence(report), *words.reasons(report), *words.failures(report), *_LIMITS]
    limits = {"technicalLimitations": [numbers.plain(each, 500) for each in dict.fromkeys(said)]}
    changed = [f"{each.what}: {each.before} before, {each.after} after" for each in treatment_words.measured(report)]
    return {**limits, "performanceTradeoffs": [numbers.plain(each, 500) for each in changed]} if changed else limits
