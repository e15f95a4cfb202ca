"""The report for programs: `bdscan.report/1`, described by `schema.json` beside this file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Integral, Real
from typing import Any

import numpy as np

from bdscan.facts.finding import Finding, Level, Run, Verdict
from bdscan.facts.treatment import Reactivation, Treatment
from bdscan.report import Report, words

Json = dict[str, Any]  # what a document of JSON is made of
SCHEMA = "bdscan.report/1"
_DIGITS = 6  # significant; more differ from machine to machine


def render(report: Report, compact: bool = False) -> str:
    """One object; on a single line where `compact`, as several models in one stream need it."""
    layout: Json = {"separators": (",", ":")} if compact else {"indent": 2}
    return json.dumps(document(report), allow_nan=False, **layout)


def document(report: Report) -> Json:
    """The report as plain values: nothing but what JSON knows, no NaN, no infinity."""
    judgement, accepted = report.judgement, report.accepted
    values: Json = tame(
        {
            "schema": SCHEMA,
            "subject": asdict(report.subject),
            "verdict": report.verdict,
            "p_value": judgement.p_value,
            "target": judgement.target,
            "reasons": judgement.reasons,
            "hint": words.hint(report),
            "clean_accuracy": report.clean_accuracy,
            "images": report.images,
            "runs": [_run(run) for run in report.runs],
            "runs_before": [_run(run) for run in report.before],
            "treatment": report.treatment and _treatment(report.treatment),
            "training": report.training and asdict(report.training),
            "made_with": report.made_with,
            "inputs": [asdict(each) for each in report.inputs],
            "accepted": accepted and {"reason": accepted.reason, "expires": accepted.expires},
            "baseline": report.baseline,
            "refused": report.refused,
            "unmet": report.unmet,
        }
    )
    return values


def _run(run: Run) -> Json:
    return {
        "probe": run.probe,
        "family": run.family,
        "settings": run.settings,
        "seconds": run.seconds,
        "failure": run.failure and run.failure.message,
        "findings": [_finding(finding) for finding in run.findings],
    }


def _finding(finding: Finding) -> Json:
    classes = finding.classes
    p_values = classes and classes.p_values
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
        "per_class": classes and {"scores": classes.scores, "p_values": () if p_values is None else p_values},
    }


def _treatment(done: Treatment) -> Json:
    """What `purify` did and measured."""
    accuracy, success = done.accuracy, done.trigger_success
    user = {} if done.user_trigger is None else {"known_trigger": asdict(done.user_trigger)}
    return {
        "method": done.method,
        "settings": done.settings,
        "seconds": done.seconds,
        "output": done.output,
        "sha256": done.sha256,
        "notes": done.notes,
        "clean_accuracy": {
            "before": accuracy.before,
            "after": accuracy.after,
            "images": accuracy.images,
            "p_value": accuracy.p_value,
        },
        "agreement": {"top1": accuracy.same, "kl": accuracy.divergence},
        "recovered_trigger_success": success and asdict(success),
        "recovered": [asdict(each) for each in done.triggers],
        "reactivation": done.reactivation and _reactivation(done.reactivation),
        "checks": [asdict(check) for check in done.checks],
        "tried": [asdict(trial) for trial in done.tried],
        "verdict": {"before": done.verdict_before, "after": done.verdict_after},
        **user,
        "files": [asdict(file) for file in done.files],
    }


def _reactivation(woken: Reactivation) -> Json:
    return {
        "retuned": {"before": woken.before, "after": woken.retuned, "control": woken.retuned_control},
        "pushed": {"stamped": woken.pushed, "clean": woken.pushed_control},
    }


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
