"""A report as text and arrays, exact to the last digit, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bdscan.facts.finding import Array, Finding, Judgement, Level, Run, Verdict
from bdscan.report import Report, Subject

_KIND = "bdscan.cache/1"


def packed(key: str, report: Report) -> tuple[bytes, dict[str, Array]]:
    """The text and the arrays beside it."""
    told, arrays = _plain(report)
    return json.dumps({"kind": _KIND, "key": key, "report": told}, default=_value).encode(), arrays


def unpacked(key: str, text: bytes, arrays: Mapping[str, Array]) -> Report | None:
    """The report again; None where the text is of another key or kind."""
    kept = json.loads(text)
    return _report(kept["report"], arrays) if (kept["kind"], kept["key"]) == (_KIND, key) else None


def _plain(report: Report) -> tuple[dict[str, Any], dict[str, Array]]:
    arrays: dict[str, Array] = {}
    runs = []
    for place, run in enumerate(report.runs):
        findings = []
        for number, finding in enumerate(run.findings):
            arrays |= {f"{place}/{number}/{name}": array for name, array in finding.arrays.items()}
            findings.append({**_fields(finding), "arrays": list(finding.arrays)})
        runs.append({**_fields(run), "findings": findings})
    told = {
        **{name: getattr(report, name) for name in ("clean_accuracy", "images", "clean")},
        "made_with": dict(report.made_with),
        "subject": asdict(report.subject),
        "judgement": asdict(report.judgement),
        "runs": runs,
    }
    return told, arrays


def _value(value: Any) -> object:
    """What JSON does not know: NumPy's numbers."""
    return value.item() if hasattr(value, "item") else str(value)


def _fields(of: Finding | Run) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__slots__ if name not in {"arrays", "findings"}}


def _report(told: dict[str, Any], held: Mapping[str, Array]) -> Report:
    subject, judgement = told["subject"], told["judgement"]
    return Report(
        **{
            **told,
            "subject": Subject(**_tupled(subject, "names", "input")),
            "judgement": Judgement(**{**_tupled(judgement, "reasons"), "verdict": Verdict(judgement["verdict"])}),
            "runs": tuple(_run(place, run, held) for place, run in enumerate(told["runs"])),
        }
    )


def _run(place: int, told: dict[str, Any], held: Mapping[str, Array]) -> Run:
    findings = tuple(_finding(f"{place}/{number}", each, held) for number, each in enumerate(told["findings"]))
    return Run(**{**told, "findings": findings})


def _finding(at: str, told: dict[str, Any], held: Mapping[str, Array]) -> Finding:
    arrays = {name: held[f"{at}/{name}"] for name in told["arrays"]}
    return Finding(**{**_tupled(told, "channels"), "level": Level(told["level"]), "arrays": arrays})


def _tupled(told: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: tuple(value) if key in names and value is not None else value for key, value in told.items()}
