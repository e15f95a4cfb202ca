"""Result files: the JSON of one is read into types here, and shortened for one file of many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bdscan.bench.labels import label_from_json
from bdscan.bench.results import (
    BeforeAfter,
    Failure,
    FailureKind,
    FindingScores,
    InspectOutcome,
    JobRecord,
    JobResult,
    Json,
    NeuralCleanseOutcome,
    Outcome,
    PlantOutcome,
    ProbeRun,
    PurifyOutcome,
    TrainOutcome,
)
from bdscan.facts.finding import Verdict


def read_result(value: Json) -> JobResult:
    """A result from the JSON of its file."""
    job, raw = read_job(value["job"]), value["outcome"] or {}
    failure = Failure(FailureKind.FAILED, value["failure"]) if value["failure"] is not None else None
    if raw.get("refused") is not None:
        failure = Failure(FailureKind.REFUSED, raw["refused"])
    return JobResult(
        key=value.get("key", ""),
        job=job,
        command=value.get("command", ""),
        seconds=value["seconds"],
        failure=failure,
        outcome=_READERS[job.method](job, raw) if failure is None else None,
        versions=raw.get("made_with") or {},
        raw=value,
    )


def read_job(value: Mapping[str, Any]) -> JobRecord:
    return JobRecord(
        name=value["name"],
        method=value["method"],
        model=Path(value["model"]),
        seed=value["seed"],
        purifier=value.get("purifier"),
        trainer=value.get("trainer"),
        images=value.get("images"),
        plant=value.get("plant"),
        settings=tuple(value.get("settings") or ()),
        rate=value.get("rate") or 0.0,
    )


def _inspect(job: JobRecord, raw: Json) -> InspectOutcome:
    report = raw["report"]
    return InspectOutcome(
        verdict=Verdict[report["verdict"].upper()],
        p_value=report["p_value"],
        target=report["target"],
        runs=tuple(_run(run) for run in report["runs"]),
        passes=raw["passes"],
        sha256=(report.get("subject") or {}).get("sha256"),
        accuracy=report.get("clean_accuracy"),
    )


def _run(run: Json) -> ProbeRun:
    return ProbeRun(
        probe=run["probe"],
        family=run.get("family", ""),
        seconds=run["seconds"],
        failure=run["failure"],
        findings=tuple(_finding(finding) for finding in run["findings"]),
    )


def _finding(finding: Json) -> FindingScores:
    per_class = finding["per_class"]
    scores = None if per_class is None else per_class.get("scores")
    return FindingScores(
        statistic=finding.get("statistic"),
        score=finding.get("score"),
        p_value=finding["p_value"],
        class_scores=None if scores is None else tuple(scores),
        class_p_values=tuple((per_class or {}).get("p_values") or ()),
    )


def _neural_cleanse(job: JobRecord, raw: Json) -> NeuralCleanseOutcome:
    figures = {key: raw["cleanse"][key] for key in ("index", "target", "flagged")}
    return NeuralCleanseOutcome(**figures, passes=raw["passes"])


def _plant(job: JobRecord, raw: Json) -> PlantOutcome:
    label = raw["label"]
    return PlantOutcome(label=label_from_json(job.name, job.model, label), seconds=label.get("seconds") or 0.0)


def _purify(job: JobRecord, raw: Json) -> PurifyOutcome:
    measured, treatment = raw["measured"], raw["report"]["treatment"]
    pairs = {key: None if measured[key] is None else BeforeAfter(**measured[key]) for key in ("asr", "ra")}
    return PurifyOutcome(
        trigger=measured.get("trigger"),
        target=measured.get("target"),
        accuracy=BeforeAfter(**measured["accuracy"]),
        success=pairs["asr"],
        recovered=pairs["ra"],
        der=measured["der"],
        seconds=measured["seconds"]["purify"],
        seconds_in_all=measured["seconds"]["all"],
        verdict=(treatment["verdict"]["before"], treatment["verdict"]["after"]),
        failed_checks=tuple(check["name"] for check in treatment["checks"] if check["passed"] is False),
        chosen=treatment["method"],
        measured_on=measured["images"],
    )


def _train(job: JobRecord, raw: Json) -> TrainOutcome:
    measured, isolation = raw["measured"], raw["training"]["isolation"]
    return TrainOutcome(
        accuracy=measured["accuracy"]["after"],
        success=measured["asr"] and measured["asr"]["after"],
        isolated=measured["isolated"] if isolation else None,
        precision=measured["precision"],
        recall=measured["recall"],
        p_value=isolation["p_value"] if isolation else None,
        verdict=raw["verdict"],
        seconds=raw["seconds"]["train"],
    )


_READERS: dict[str, Callable[[JobRecord, Json], Outcome]] = {
    "inspect": _inspect,
    "cleanse": _neural_cleanse,
    "plant": _plant,
    "purify": _purify,
    "train": _train,
}


def compact(result: JobResult) -> Json:
    """The JSON of a result without what no table shows."""
    outcome = result.raw["outcome"]
    if outcome is None:
        return result.raw
    if outcome.get("training") is not None:
        isolation = outcome["training"]["isolation"]
        kept = {"training": {"isolation": isolation and {"p_value": isolation["p_value"]}}}
    elif outcome.get("report") is not None:
        kept = {"report": _compact_report(outcome["report"])}
    else:
        kept = {}
    return {**result.raw, "outcome": {**outcome, **kept}}


def _compact_report(report: Json) -> Json:
    treatment = report.get("treatment") and {
        **{key: report["treatment"][key] for key in ("method", "verdict", "seconds")},
        "checks": [{key: check[key] for key in ("name", "passed")} for check in report["treatment"]["checks"]],
    }
    runs = [
        {
            **{key: run[key] for key in ("probe", "seconds", "failure")},
            "findings": [_compact_finding(finding) for finding in run["findings"]],
        }
        for run in report["runs"]
    ]
    return {**{key: report.get(key) for key in ("verdict", "p_value", "target")}, "runs": runs, "treatment": treatment}


def _compact_finding(finding: Json) -> Json:
    per_class = finding["per_class"] or {}
    kept = {"p_values": per_class["p_values"]} if "p_values" in per_class else None
    return {"p_value": finding["p_value"], "per_class": kept}
