"""The small result files of all bench commands, read together: the tables are made from them and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bdscan.bench.detect import detect_rows as seen
from bdscan.bench.detect.detect_rows import Seen
from bdscan.bench.labels import Labelled, beside, labelled
from bdscan.bench.plant.plant_job import label_of
from bdscan.bench.purify import purify_rows as cured
from bdscan.bench.purify.purify_rows import Cured
from bdscan.bench.workers import jobs
from bdscan.bench.workers.jobs import Result
from bdscan.facts.problem import USAGE, Problem

SCHEMA = "bdscan.bench.results/1"  # many results in one file, without what no table shows
LOOKS = ("inspect", "cleanse")


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Everything that was found, each with its truth."""

    results: tuple[Result, ...]
    labels: tuple[Labelled, ...]
    seen: tuple[Seen, ...]
    cured: tuple[Cured, ...]
    trained: tuple[Result, ...]
    untold: tuple[str, ...]  # models of which nothing says what they are


def gather(paths: Sequence[Path]) -> Gathered:
    """Results and labels in files and folders, each result once."""
    told: dict[str, Labelled] = {}
    found: dict[str, Result] = {}
    for path, value in _documents(paths):
        if "attack" in value:
            told[path.stem] = labelled(path.stem, path.with_suffix(""), value)
        if value.get("schema") == SCHEMA:
            told |= {name: labelled(name, Path(name), label) for name, label in value["labels"].items()}
        for result in value["results"] if value.get("schema") == SCHEMA else [value]:
            if result.get("schema") == jobs.SCHEMA:
                found[result["key"]] = result
    if not found:
        names = ", ".join(f"`{path}`" for path in paths)
        raise Problem(f"no results in {names}", hint="the folder that `--results` named", status=USAGE)
    results = sorted(found.values(), key=_order)
    for result in results:
        if result["job"]["method"] == "plant" and result["failure"] is None:
            job = result["job"]
            told.setdefault(job["name"], labelled(job["name"], Path(job["model"]), result["outcome"]["label"]))
    return _sorted(results, told)


def _documents(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in paths:
        if not path.exists():
            raise Problem(f"no such file or folder: `{path}`", status=USAGE)
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            try:
                value = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise Problem(f"`{file}` cannot be read: {error}", status=USAGE) from None
            if isinstance(value, dict):
                yield file, value


def _order(result: Result) -> tuple[str, ...]:
    job = result["job"]
    return (
        job["method"],
        job.get("purifier") or job.get("trainer") or "",
        f"{job.get('images') or 0:9}",
        job["name"],
        result["key"],
    )


def _sorted(results: Sequence[Result], told: Mapping[str, Labelled]) -> Gathered:
    looked, treated, untold = list[Seen](), list[Cured](), dict[str, None]()
    labels: dict[str, Labelled] = {}
    for result in results:
        if result["job"]["method"] == "train":
            continue  # no model stays, and the data tell the truth
        label = _label(result, told)
        if label is None:
            untold[result["job"]["name"]] = None
            continue
        labels[label.name] = label
        if result["job"]["method"] in LOOKS:
            looked.append(seen.read(label, result))
        elif result["job"]["method"] == "purify":
            treated.append(cured.read(label, result))
    return Gathered(
        results=tuple(results),
        labels=tuple(sorted(labels.values(), key=lambda label: label.name)),
        seen=tuple(looked),
        cured=tuple(treated),
        trained=tuple(result for result in results if result["job"]["method"] == "train"),
        untold=tuple(untold),
    )


def _label(result: Result, told: Mapping[str, Labelled]) -> Labelled | None:
    """From the files that were given, else from beside the model, else from what was measured."""
    job = result["job"]
    name, model = job["name"], Path(job["model"])
    if name in told:
        return told[name]
    if label_of(model).is_file():
        return replace(beside(model), name=name)
    measured = (result["outcome"] or {}).get("measured")
    if measured is None:
        return None
    trigger, success = measured["trigger"], (measured["asr"] or {}).get("before")
    attack = trigger.rpartition(" ")[2].rpartition(":")[2] if trigger else None
    return Labelled(name=name, model=model, attack=attack, target=measured.get("target"), success=success)


def slim(found: Gathered) -> str:
    """One JSON document with all that the tables need, a result a line."""
    labels = {label.name: _told(label) for label in found.labels}
    lines = ",\n".join(json.dumps(_slim(result)) for result in found.results)
    return f'{{"schema": {json.dumps(SCHEMA)},\n"labels": {json.dumps(labels)},\n"results": [\n{lines}\n]}}'


def _told(label: Labelled) -> dict[str, Any]:
    """As it stands beside a model."""
    kept = {key: getattr(label, key) for key in ("arch", "attack", "rate", "target", "mode", "source")}
    return {**kept, "settings": dict(label.settings), "acc": label.accuracy, "asr": label.success}


def _slim(result: Result) -> Result:
    outcome = result["outcome"]
    if outcome is not None and outcome.get("training") is not None:
        isolation = outcome["training"]["isolation"]
        shown = {"isolation": isolation and {"p_value": isolation["p_value"]}}
        return {**result, "outcome": {**outcome, "training": shown}}
    if outcome is None or outcome.get("report") is None:
        return result
    report = outcome["report"]
    kept = {key: report.get(key) for key in ("verdict", "p_value", "target")}
    treatment = report.get("treatment") and {
        **{key: report["treatment"][key] for key in ("method", "verdict", "seconds")},
        "checks": [{key: check[key] for key in ("name", "passed")} for check in report["treatment"]["checks"]],
    }
    runs = [_run(run) for run in report["runs"]]
    return {**result, "outcome": {**outcome, "report": {**kept, "runs": runs, "treatment": treatment}}}


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    """A probe's time and its p-values."""
    findings = [
        {"p_value": finding["p_value"], "per_class": _p_values(finding["per_class"])} for finding in run["findings"]
    ]
    return {**{key: run[key] for key in ("probe", "seconds", "failure")}, "findings": findings}


def _p_values(per_class: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"p_values": per_class["p_values"]} if per_class and "p_values" in per_class else None
