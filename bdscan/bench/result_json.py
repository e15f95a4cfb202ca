"""Result files: the JSON of one is read into types here, and shortened for one file of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from bdscan.bench import results
from bdscan.bench.labels import label_from_json
from bdscan.bench.results import BeforeAfter, DetectOutcome, JobFailure, JobRecord, JobResult, Outcome
from bdscan.bench.workers.job import Json
from bdscan.facts.finding import Verdict

T = TypeVar("T")
MIN_P = 1e-300  # smaller ones are not told apart


def read_result(value: Json) -> JobResult:
    """A result from the JSON of its file."""
    job, raw = read_job(value["job"]), value["outcome"] or {}
    failure = None if value["failure"] is None else JobFailure(value["failure"])
    if raw.get("refused") is not None:
        failure = JobFailure(raw["refused"], refused=True)
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


def read_job(value: Json) -> JobRecord:
    return _pick(JobRecord, value, model=Path(value["model"]), settings=tuple(value.get("settings", ())))


def _pick(kind: type[T], value: Mapping[str, Any], **built: Any) -> T:
    """The fields that are called in the JSON as in the type; those that are not are given."""
    names = {each.name for each in fields(kind)} & set(value) - set(built)  # type: ignore[arg-type]
    return kind(**{name: value[name] for name in names}, **built)


def _inspect(job: JobRecord, raw: Json) -> Outcome:
    report, runs = raw["report"], raw["report"]["runs"]
    verdict = Verdict[report["verdict"].upper()]
    p_values = {run["probe"]: p for run in runs if (p := list(_p_values(run)))}
    return DetectOutcome(
        flagged=verdict >= Verdict.SUSPICIOUS,
        verdict=verdict,
        target=report["target"],
        passes=raw["passes"],
        scores={
            results.VERDICT: float(verdict),
            results.P_VALUE: strength(report["p_value"]),
            **{probe: strength(min(p)) for probe, p in p_values.items()},
        },
        failures={run["probe"]: run["failure"] for run in runs if run["failure"]},
        probe_seconds={run["probe"]: run["seconds"] for run in runs},
        statistics=dict(_statistics(runs)),
        sha256=(report.get("subject") or {}).get("sha256"),
        accuracy=report.get("clean_accuracy"),
    )


def _p_values(run: Json) -> Iterator[float]:
    """One a class where a finding has them, else its own."""
    for finding in run["findings"]:
        of_classes = (finding["per_class"] or {}).get("p_values")
        yield from (p for p in of_classes or (finding["p_value"],) if p is not None)


def _statistics(runs: Iterable[Json]) -> Iterator[tuple[str, list[float]]]:
    for finding in (finding for run in runs for finding in run["findings"] if finding.get("statistic") is not None):
        of_classes = (finding["per_class"] or {}).get("scores")
        if of_classes is not None:
            yield finding["statistic"], [math.nan if score is None else score for score in of_classes]
        elif finding.get("score") is not None:
            yield finding["statistic"], [finding["score"]]


def strength(p: float | None) -> float:
    """-log10 p; a probe that gave none saw nothing."""
    return 0.0 if p is None else -math.log10(max(p, MIN_P))


def _neural_cleanse(job: JobRecord, raw: Json) -> Outcome:
    cleanse = raw["cleanse"]
    target = cleanse["target"] if cleanse["flagged"] else None
    scores = {results.CLEANSE: cleanse["index"]}
    return DetectOutcome(flagged=cleanse["flagged"], target=target, passes=raw["passes"], scores=scores)


def _plant(job: JobRecord, raw: Json) -> Outcome:
    label = label_from_json(job.name, job.model, raw["label"])
    return results.PlantOutcome(label=label, seconds=raw["label"].get("seconds", 0.0))


def _purify(job: JobRecord, raw: Json) -> Outcome:
    measured, treatment = raw["measured"], raw["report"]["treatment"]
    accuracy, success, recovered = (measured[key] and BeforeAfter(**measured[key]) for key in ("accuracy", "asr", "ra"))
    return _pick(
        results.PurifyOutcome,
        measured,
        accuracy=accuracy,
        success=success,
        recovered=recovered,
        seconds=measured["seconds"]["purify"],
        seconds_in_all=measured["seconds"]["all"],
        verdict=(treatment["verdict"]["before"], treatment["verdict"]["after"]),
        failed_checks=tuple(check["name"] for check in treatment["checks"] if check["passed"] is False),
        chosen=treatment["method"],
        measured_on=measured["images"],
    )


def _train(job: JobRecord, raw: Json) -> Outcome:
    measured, isolation = raw["measured"], raw["training"]["isolation"]
    return _pick(
        results.TrainOutcome,
        measured,
        accuracy=measured["accuracy"]["after"],
        success=measured["asr"] and measured["asr"]["after"],
        isolated=measured["isolated"] if isolation else None,
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

# What of a long outcome tables show.
Shape = Mapping[str, "Shape | None"]
_SHOWN: dict[str, Shape] = {
    "training": {"isolation": {"p_value": None}},
    "report": {
        **dict.fromkeys(("verdict", "p_value", "target")),
        "runs": {
            **dict.fromkeys(("probe", "seconds", "failure")),
            "findings": {"p_value": None, "per_class": {"p_values": None}},
        },
        "treatment": {**dict.fromkeys(("method", "verdict", "seconds")), "checks": {"name": None, "passed": None}},
    },
}


def compact(result: JobResult) -> Json:
    """The JSON of a result without what no table shows."""
    outcome = result.raw["outcome"]
    shown = {key: _shown(outcome[key], shape) for key, shape in _SHOWN.items() if outcome and outcome.get(key)}
    return {**result.raw, "outcome": outcome and {**outcome, **shown}}


def _shown(value: Any, shape: Shape | None) -> Any:
    if value is None or shape is None:
        return value
    if isinstance(value, list):
        return [_shown(each, shape) for each in value]
    return {key: _shown(value.get(key), inner) for key, inner in shape.items()}
