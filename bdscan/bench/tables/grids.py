"""The tables of `bdscan bench table`: nets, probes, and each method on each trigger beside what others published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from bdscan.bench.detect import detect_table
from bdscan.bench.labels import Kind, Labelled
from bdscan.bench.purify import purify_table
from bdscan.bench.purify.purify_rows import Cured
from bdscan.bench.tables.grid import NOTHING, Grid, percent
from bdscan.bench.tables.published import Published, on, sources
from bdscan.bench.tables.result_files import Gathered
from bdscan.bench.train import train_table

HERE = "here"
_BY_TRIGGER = (
    "trigger, method",
    "images",
    "nets",
    "ACC",
    "ACC after",
    "worst loss",
    "ASR",
    "ASR after",
    "worst ASR",
    "RA after",
    "DER",
    "worst DER",
    "seconds",
    "from",
)


def grids(found: Gathered) -> list[Grid]:
    """All of them; those without a row are left out."""
    tables = [_nets(found.labels)]
    if found.seen:
        tables += detect_table.grids(found.seen)
    if found.cured:
        tables += [_triggers(found.cured), *purify_table.grids(found.cured)]
    if found.trained:
        tables += [*train_table.grids(found.trained), _trained_by_others(found)]
    return _shown([*tables, _sources(found), _commands(found)])


def _shown(tables: Sequence[Grid]) -> list[Grid]:
    return [grid for grid in tables if grid.rows]


def _nets(labels: Sequence[Labelled]) -> Grid:
    columns = ("trigger", "nets", "backdoored", "controls", "left out", "ACC", "lowest ACC", "ASR", "lowest ASR")
    families = sorted({label.family for label in labels}, key=lambda family: (family != "clean", family))
    body = tuple(_family(family, [label for label in labels if label.family == family]) for family in families)
    return Grid("Nets: mean and worst, in per cent", columns, body)


def _family(family: str, labels: Sequence[Labelled]) -> tuple[str, ...]:
    accuracy = [label.accuracy for label in labels if label.accuracy is not None]
    success = [label.success for label in labels if label.success is not None]
    kinds = (str(sum(label.kind is kind for label in labels)) for kind in (Kind.BACKDOORED, Kind.CONTROL, Kind.APART))
    figures = (*_mean_and(min, accuracy), *_mean_and(min, success))
    return (family, str(len(labels)), *kinds, *figures)


def _mean_and(worst: Callable[[Iterable[float]], float], values: Sequence[float]) -> tuple[str, str]:
    return (percent(fmean(values)), percent(worst(values))) if values else (NOTHING, NOTHING)


def _triggers(rows: Sequence[Cured]) -> Grid:
    """Each trigger's own rows, and under them those of others."""
    bad = [row for row in rows if row.label.kind is Kind.BACKDOORED and row.success is not None]
    body: list[tuple[str, ...]] = []
    for family in sorted({row.label.family for row in bad}):
        ours = [row for row in bad if row.label.family == family]
        for method, images in dict.fromkeys((row.method, row.images) for row in ours):
            body.append(_ours(family, [row for row in ours if (row.method, row.images) == (method, images)]))
        body += [_theirs(figure) for figure in on(family, "purify")]
    return Grid("Each trigger: mean and worst, in per cent; marked: as published by others", _BY_TRIGGER, tuple(body))


def _ours(family: str, rows: Sequence[Cured]) -> tuple[str, ...]:
    accuracy = [row.accuracy for row in rows if row.accuracy is not None]
    success = [row.success for row in rows if row.success is not None]
    lost = [before - after for before, after in accuracy]
    ders = [row.der for row in rows if row.der is not None]
    seconds = [row.seconds_in_all for row in rows if row.seconds_in_all is not None]
    return (
        f"{family}, {rows[0].method}",
        "all" if rows[0].images is None else str(rows[0].images),
        str(len(rows)),
        _mean([pair[0] for pair in accuracy]),
        _mean([pair[1] for pair in accuracy]),
        percent(max(lost)) if lost else NOTHING,
        _mean([pair[0] for pair in success]),
        *_mean_and(max, [pair[1] for pair in success]),
        _mean([row.recovered[1] for row in rows if row.recovered is not None]),
        f"{fmean(ders):.3f}" if ders else NOTHING,
        f"{min(ders):.3f}" if ders else NOTHING,
        f"{fmean(seconds):.0f}" if seconds else NOTHING,
        HERE,
    )


def _theirs(figure: Published) -> tuple[str, ...]:
    before, after = zip(figure.accuracy, figure.asr, strict=True)
    return (
        f"{figure.attack}, {figure.method}",
        NOTHING,
        NOTHING,
        percent(before[0]),
        percent(after[0]),
        NOTHING,
        percent(before[1]),
        percent(after[1]),
        NOTHING,
        NOTHING,
        f"{figure.der:.3f}",
        NOTHING,
        NOTHING,
        f"published: {figure.source.net}, {figure.rate:.0%}",
    )


def _trained_by_others(found: Gathered) -> Grid:
    attacks = dict.fromkeys(result["job"]["plant"] for result in found.trained if result["job"]["plant"])
    body = tuple(_theirs(figure) for attack in attacks for figure in on(attack, "train"))
    return Grid("Training, as published by others: before is plain training", _BY_TRIGGER, body)


def _sources(found: Gathered) -> Grid:
    treated = [row.label.family for row in found.cured]
    trained = [result["job"]["plant"] for result in found.trained]
    body = tuple(
        (source.title, f"{source.net}, {source.data}", source.where) for source in sources([*treated, *trained])
    )
    return Grid("Where the published figures stand", ("published", "measured on", "where"), body)


def _commands(found: Gathered) -> Grid:
    """What has to be typed for the same figures."""
    typed: dict[tuple[str, ...], int] = {}
    for result in found.results:
        made = (result["outcome"] or {}).get("made_with") or {}
        versions = ", ".join(f"{name} {made[name]}" for name in ("bdscan", "torch", "python") if name in made)
        key = (result["command"] or NOTHING, str(result["job"]["seed"]), versions or NOTHING)
        typed[key] = typed.get(key, 0) + 1
    body = tuple((command, str(count), *rest) for (command, *rest), count in sorted(typed.items()))
    return Grid("How it was made", ("command", "results", "seed", "with"), body)


def _mean(values: Sequence[float]) -> str:
    return percent(fmean(values)) if values else NOTHING
