"""The tables of `bdscan bench table`: nets, probes, and each method on each trigger beside what others published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from bdscan.bench.detect import detect_table
from bdscan.bench.labels import ModelKind, ModelLabel
from bdscan.bench.purify import purify_table
from bdscan.bench.purify.purify_rows import PurifyRow
from bdscan.bench.tables.grid import NOTHING, Grid, percent
from bdscan.bench.tables.published import PublishedFigure, published_on, sources
from bdscan.bench.tables.result_files import BenchResults
from bdscan.bench.train import train_table

HERE = "here"
VERSIONS = ("bdscan", "torch", "python")
_BEFORE_AFTER = ("ACC", "ACC after", "worst loss", "ASR", "ASR after", "worst ASR", "RA after", "DER", "worst DER")
_BY_TRIGGER = ("trigger, method", "images", "nets", *_BEFORE_AFTER, "seconds", "from")


def grids(results: BenchResults) -> list[Grid]:
    """All of them; those without a row are left out."""
    tables = [_nets(results.labels)]
    if results.detected:
        tables += detect_table.grids(results.detected)
    if results.purified:
        tables += [_triggers(results.purified), *purify_table.grids(results.purified)]
    if results.trained:
        tables += [*train_table.grids(results.trained), _trained_by_others(results)]
    tables += [_sources(results), _commands(results)]
    return [grid for grid in tables if grid.rows]


def _nets(labels: Sequence[ModelLabel]) -> Grid:
    columns = ("trigger", "nets", "backdoored", "controls", "left out", "ACC", "lowest ACC", "ASR", "lowest ASR")
    families = sorted({label.family for label in labels}, key=lambda family: (family != "clean", family))
    body = tuple(_family(family, [label for label in labels if label.family == family]) for family in families)
    return Grid("Nets: mean and worst, in per cent", columns, body)


def _family(family: str, labels: Sequence[ModelLabel]) -> tuple[str, ...]:
    accuracy = [label.accuracy for label in labels if label.accuracy is not None]
    success = [label.success for label in labels if label.success is not None]
    kinds = (str(sum(label.kind is kind for label in labels)) for kind in ModelKind)
    figures = (*_mean_and(min, accuracy), *_mean_and(min, success))
    return (family, str(len(labels)), *kinds, *figures)


def _mean_and(worst: Callable[[Iterable[float]], float], values: Sequence[float]) -> tuple[str, str]:
    return (percent(fmean(values)), percent(worst(values))) if values else (NOTHING, NOTHING)


def _triggers(rows: Sequence[PurifyRow]) -> Grid:
    """Each trigger's own rows, and under them those of others."""
    backdoored = [row for row in rows if row.label.kind is ModelKind.BACKDOORED and row.success is not None]
    body: list[tuple[str, ...]] = []
    for family in sorted({row.label.family for row in backdoored}):
        ours = [row for row in backdoored if row.label.family == family]
        for method, images in dict.fromkeys((row.method, row.images) for row in ours):
            body.append(_ours(family, [row for row in ours if (row.method, row.images) == (method, images)]))
        body += [_theirs(figure) for figure in published_on(family, "purify")]
    return Grid("Each trigger: mean and worst, in per cent; marked: as published by others", _BY_TRIGGER, tuple(body))


def _ours(family: str, rows: Sequence[PurifyRow]) -> tuple[str, ...]:
    accuracy = [row.accuracy for row in rows if row.accuracy is not None]
    success = [row.success for row in rows if row.success is not None]
    lost = [before - after for before, after in accuracy]
    ders = [row.der for row in rows if row.der is not None]
    seconds = [row.seconds_in_all for row in rows if row.seconds_in_all is not None]
    return (
        f"{family}, {rows[0].method}",
        "all" if rows[0].images is None else str(rows[0].images),
        str(len(rows)),
        _mean([pair.before for pair in accuracy]),
        _mean([pair.after for pair in accuracy]),
        percent(max(lost)) if lost else NOTHING,
        _mean([pair.before for pair in success]),
        *_mean_and(max, [pair.after for pair in success]),
        _mean([row.recovered.after for row in rows if row.recovered is not None]),
        f"{fmean(ders):.3f}" if ders else NOTHING,
        f"{min(ders):.3f}" if ders else NOTHING,
        f"{fmean(seconds):.0f}" if seconds else NOTHING,
        HERE,
    )


def _theirs(figure: PublishedFigure) -> tuple[str, ...]:
    (accuracy, accuracy_after), (success, success_after) = figure.accuracy, figure.asr
    before_after = (percent(accuracy), percent(accuracy_after), NOTHING, percent(success), percent(success_after))
    source = f"published: {figure.source.net}, {figure.rate:.0%}"
    name, der = f"{figure.attack}, {figure.method}", f"{figure.der:.3f}"
    return (name, NOTHING, NOTHING, *before_after, NOTHING, NOTHING, der, NOTHING, NOTHING, source)


def _trained_by_others(results: BenchResults) -> Grid:
    attacks = dict.fromkeys(result.job.plant for result in results.trained if result.job.plant)
    body = tuple(_theirs(figure) for attack in attacks for figure in published_on(attack, "train"))
    return Grid("Training, as published by others: before is plain training", _BY_TRIGGER, body)


def _sources(results: BenchResults) -> Grid:
    purified = [row.label.family for row in results.purified]
    trained = [result.job.plant for result in results.trained if result.job.plant]
    body = tuple(
        (source.title, f"{source.net}, {source.data}", source.where) for source in sources([*purified, *trained])
    )
    return Grid("Where the published figures stand", ("published", "measured on", "where"), body)


def _commands(results: BenchResults) -> Grid:
    """What has to be typed for the same figures."""
    counts: Counter[tuple[str, ...]] = Counter()
    for result in results.results:
        versions = [f"{name} {result.versions[name]}" for name in VERSIONS if name in result.versions]
        counts[result.command or NOTHING, str(result.job.seed), ", ".join(versions) or NOTHING] += 1
    body = tuple((command, str(count), *rest) for (command, *rest), count in sorted(counts.items()))
    return Grid("How it was made", ("command", "results", "seed", "with"), body)


def _mean(values: Sequence[float]) -> str:
    return percent(fmean(values)) if values else NOTHING
