"""The small result files of all bench commands, read together: the tables are made from them and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bdscan.bench.detect.accuracy import DetectRow, detect_row
from bdscan.bench.labels import ModelLabel, label_from_json, label_json, label_path, read_label
from bdscan.bench.purify.purify_table import PurifyRow, purify_row
from bdscan.bench.result_json import compact, read_result
from bdscan.bench.results import JobResult, PlantOutcome, PurifyOutcome
from bdscan.bench.workers import jobs
from bdscan.bench.workers.job import Json
from bdscan.facts.problem import USAGE, Problem

SCHEMA = "bdscan.bench.results/1"  # many results in one file, without what no table shows


@dataclass(frozen=True, kw_only=True)
class BenchResults:
    """All results, each model's beside its label."""

    results: tuple[JobResult, ...]
    labels: tuple[ModelLabel, ...]
    detected: tuple[DetectRow, ...]
    purified: tuple[PurifyRow, ...]
    trained: tuple[JobResult, ...]
    unlabelled: tuple[str, ...]  # models of which nothing says what they are


def gather(paths: Sequence[Path]) -> BenchResults:
    """Results and labels in files and folders, each result once."""
    labels: dict[str, ModelLabel] = {}
    by_key: dict[str, JobResult] = {}
    for path, value in _documents(paths):
        if "attack" in value:
            labels[path.stem] = label_from_json(path.stem, path.with_suffix(""), value)
        if value.get("schema") == SCHEMA:
            labels |= {name: label_from_json(name, Path(name), label) for name, label in value["labels"].items()}
        for result in value["results"] if value.get("schema") == SCHEMA else [value]:
            if result.get("schema") == jobs.SCHEMA:
                by_key[result["key"]] = read_result(result)
    if not by_key:
        names = ", ".join(f"`{path}`" for path in paths)
        raise Problem(f"no results in {names}", hint="the folder that `--results` named", status=USAGE)
    results = sorted(by_key.values(), key=_order)
    for result in results:
        if isinstance(result.outcome, PlantOutcome):
            labels.setdefault(result.job.name, result.outcome.label)
    return _sorted(results, labels)


def _documents(paths: Iterable[Path]) -> Iterator[tuple[Path, Json]]:
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


def _order(result: JobResult) -> tuple[str, ...]:
    job = result.job
    return (job.method, job.purifier or job.trainer or "", f"{job.images or 0:9}", job.name, result.key)


def _sorted(results: Sequence[JobResult], given: Mapping[str, ModelLabel]) -> BenchResults:
    # Of a training no model stays, and the job says how the data were poisoned.
    labels = [(result, _label(result, given)) for result in results if result.job.method != "train"]
    labelled = [(label, result) for result, label in labels if label is not None]
    by_name = {label.name: label for label, _ in labelled}
    return BenchResults(
        results=tuple(results),
        labels=tuple(by_name[name] for name in sorted(by_name)),
        detected=tuple(detect_row(*each) for each in labelled if each[1].job.method not in ("purify", "plant")),
        purified=tuple(purify_row(*each) for each in labelled if each[1].job.method == "purify"),
        trained=tuple(result for result in results if result.job.method == "train"),
        unlabelled=tuple(dict.fromkeys(result.job.name for result, label in labels if label is None)),
    )


def _label(result: JobResult, given: Mapping[str, ModelLabel]) -> ModelLabel | None:
    """From the files that were given, else from beside the model, else from what was measured."""
    job, outcome = result.job, result.outcome
    if job.name in given:
        return given[job.name]
    if label_path(job.model).is_file():
        return replace(read_label(job.model), name=job.name)
    if not isinstance(outcome, PurifyOutcome):
        return None
    attack = outcome.trigger.rpartition(" ")[2].rpartition(":")[2] if outcome.trigger else None
    success = outcome.success and outcome.success.before
    return ModelLabel(name=job.name, model=job.model, attack=attack, target=outcome.target, success=success)


def compact_json(results: BenchResults) -> str:
    """One JSON document with all that the tables need, a result a line."""
    labels = {label.name: label_json(label) for label in results.labels}
    lines = ",\n".join(json.dumps(compact(result)) for result in results.results)
    return f'{{"schema": {json.dumps(SCHEMA)},\n"labels": {json.dumps(labels)},\n"results": [\n{lines}\n]}}'
