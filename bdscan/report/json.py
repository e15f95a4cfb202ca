"""The report for programs: `bdscan.report/1`, described by `schema.json` beside this file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from bdscan.facts.finding import Finding, Level, Run, Verdict
from bdscan.report import Report, json_records, words

SCHEMA = "bdscan.report/1"
_DIGITS = 6  # significant; more differ from machine to machine


def render(report: Report, compact: bool = False) -> str:
    """One object; on a single line where `compact`, as several models in one stream need it."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
    return json.dumps(document(report), allow_nan=False, **layout)


def document(report: Report) -> dict[str, Any]:
    """The report as plain values: nothing but what JSON knows, no NaN, no infinity."""
    subject, judgement, accepted = report.subject, report.judgement, report.accepted
    found: dict[str, Any] = tame(
        {
            "schema": SCHEMA,
            "subject": {
                "path": subject.path,
                "sha256": subject.sha256,
                "format": subject.format,
                "arch": subject.arch,
                "classes": subject.classes,
                "input": subject.input,
                "normalize": subject.normalize,
                "tensors_loaded": subject.tensors_loaded,
                "tensors_total": subject.tensors_total,
                "names": subject.names,
            },
            "verdict": report.verdict,
            "p_value": judgement.p_value,
            "target": judgement.target,
            "reasons": judgement.reasons,
            "hint": words.hint(report),
            "clean_accuracy": report.clean_accuracy,
            "images": report.images,
            "runs": [_run(run) for run in report.runs],
            "runs_before": [_run(run) for run in report.before],
            "treatment": report.treatment and json_records.treatment(report.treatment),
            "training": report.training and json_records.training(report.training),
            "made_with": report.made_with,
            "inputs": [{"role": each.role, "path": each.path, "digest": each.digest} for each in report.inputs],
            "accepted": accepted and {"reason": accepted.reason, "expires": accepted.expires},
            "baseline": report.baseline,
            "refused": report.refused,
            "unmet": report.unmet,
        }
    )
    return found


def _run(run: Run) -> dict[str, object]:
    return {
        "probe": run.probe,
        "family": run.family,
        "settings": run.settings,
        "seconds": run.seconds,
        "failure": run.failure and run.failure.message,
        "findings": [_finding(finding) for finding in run.findings],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "level": finding.level,
        "message": finding.message,
        "score": finding.score,
        "threshold": finding.threshold,
        "p_value": finding.p_value,
        "target": finding.target,
        "layer": finding.layer,
        "channels": finding.channels,
        "shown": finding.demonstrated,
        "statistic": finding.statistic,
        "per_class": _per_class(finding),
    }


def _per_class(finding: Finding) -> dict[str, object] | None:
    classes = finding.classes
    if classes is None:
        return None
    return {"scores": classes.scores, "p_values": () if classes.p_values is None else classes.p_values}


def tame(value: object) -> Any:
    """Nothing but what JSON knows."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Level | Verdict):
        return value.word
    if isinstance(value, Mapping):
        return {str(key): tame(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return tame(value.tolist())
    if isinstance(value, list | tuple):
        return [tame(inner) for inner in value]
    return _figure(value)


def _figure(value: object) -> int | float | str | None:
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(f"{float(value):.{_DIGITS}g}") if math.isfinite(value) else None
    return str(value)
