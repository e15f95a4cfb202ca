"""The tables of `bdscan bench table`: nets, probes, and each method on each trigger beside what others published."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bdscan.bench.detect import detect_table
from bdscan.bench.labels import ModelKind, ModelLabel
from bdscan.bench.purify import purify_table
from bdscan.bench.purify.purify_table import PurifyRow
from bdscan.bench.tables.grid import NOTHING, Grid, count, figure, percent, percents
from bdscan.bench.tables.metrics import mean, mean_and_worst
from bdscan.bench.tables.result_files import BenchResults
from bdscan.bench.train import run_train
from bdscan.triggers.user_trigger import TriggerEffect, der

PUBLISHED = Path(__file__).with_name("published.json")
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
        tables += [*run_train.grids(results.trained), _trained_by_others(results)]
    tables += [_sources(results), _commands(results)]
    return [grid for grid in tables if grid.rows]


def _nets(labels: Sequence[ModelLabel]) -> Grid:
    columns = ("trigger", "nets", "backdoored", "controls", "left out", "ACC", "lowest ACC", "ASR", "lowest ASR")
    families = sorted({label.family for label in labels}, key=lambda family: (family != "clean", family))
    body = tuple(_family(family, [label for label in labels if label.family == family]) for family in families)
    return Grid("Nets: mean and worst, in per cent", columns, body)


def _family(family: str, labels: Sequence[ModelLabel]) -> tuple[str, ...]:
    kinds = (str(sum(label.kind is kind for label in labels)) for kind in ModelKind)
    accuracy = mean_and_worst((label.accuracy for label in labels), min)
    success = mean_and_worst((label.success for label in labels), min)
    return (family, str(len(labels)), *kinds, *percents(accuracy), *percents(success))


def _triggers(rows: Sequence[PurifyRow]) -> Grid:
    """Each trigger's own rows, and under them those of others."""
    backdoored = [row for row in rows if row.label.kind is ModelKind.BACKDOORED and row.success is not None]
    body: list[tuple[str, ...]] = []
    for family in sorted({row.label.family for row in backdoored}):
        ours = [row for row in backdoored if row.label.family == family]
        for method, images in dict.fromkeys((row.method, row.images) for row in ours):
            body.append(_ours(family, [row for row in ours if (row.method, row.images) == (method, images)]))
        body += [_theirs(each) for each in published_on(family, "purify")]
    return Grid("Each trigger: mean and worst, in per cent; marked: as published by others", _BY_TRIGGER, tuple(body))


def _ours(family: str, rows: Sequence[PurifyRow]) -> tuple[str, ...]:
    accuracy = [row.accuracy for row in rows if row.accuracy is not None]
    success = [row.success for row in rows if row.success is not None]
    der, worst_der = mean_and_worst((row.der for row in rows), min) or (None, None)
    return (
        f"{family}, {rows[0].method}",
        count(rows[0].images, "all"),
        str(len(rows)),
        percent(mean(pair.before for pair in accuracy)),
        percent(mean(pair.after for pair in accuracy)),
        percents(mean_and_worst(row.lost for row in rows))[1],
        percent(mean(pair.before for pair in success)),
        *percents(mean_and_worst(pair.after for pair in success)),
        percent(mean(row.recovered.after for row in rows if row.recovered is not None)),
        figure(der),
        figure(worst_der),
        figure(mean(row.seconds_in_all for row in rows), digits=0),
        HERE,
    )


def _theirs(theirs: PublishedFigure) -> tuple[str, ...]:
    (accuracy, accuracy_after), (success, success_after) = theirs.accuracy, theirs.asr
    before_after = (percent(accuracy), percent(accuracy_after), NOTHING, percent(success), percent(success_after))
    source = f"published: {theirs.source.net}, {theirs.rate:.0%}"
    name, der = f"{theirs.attack}, {theirs.method}", f"{theirs.der:.3f}"
    return (name, NOTHING, NOTHING, *before_after, NOTHING, NOTHING, der, NOTHING, NOTHING, source)


def _trained_by_others(results: BenchResults) -> Grid:
    attacks = dict.fromkeys(result.job.plant or "" for result in results.trained)
    body = tuple(_theirs(figure) for attack in attacks for figure in published_on(attack, "train"))
    return Grid("Training, as published by others: before is plain training", _BY_TRIGGER, body)


def _sources(results: BenchResults) -> Grid:
    attacks = [*(row.label.family for row in results.purified), *(result.job.plant or "" for result in results.trained)]
    body = tuple((source.title, f"{source.net}, {source.data}", source.where) for source in sources(attacks))
    return Grid("Where the published figures stand", ("published", "measured on", "where"), body)


def _commands(results: BenchResults) -> Grid:
    """What has to be typed for the same figures."""
    counts: Counter[tuple[str, ...]] = Counter()
    for result in results.results:
        versions = [f"{name} {result.versions[name]}" for name in VERSIONS if name in result.versions]
        counts[result.command or NOTHING, str(result.job.seed), ", ".join(versions) or NOTHING] += 1
    body = tuple((command, str(count), *rest) for (command, *rest), count in sorted(counts.items()))
    return Grid("How it was made", ("command", "results", "seed", "with"), body)


@dataclass(frozen=True)
class Source:
    """Where figures stand, and what they were measured on."""

    title: str
    where: str
    net: str
    data: str


@dataclass(frozen=True)
class PublishedFigure:
    """One method on one trigger: before and after, as shares."""

    source: Source
    room: str  # purify or train: a defence of which kind
    method: str
    attack: str
    rate: float
    accuracy: tuple[float, float]
    asr: tuple[float, float]

    @property
    def der(self) -> float:
        """By the same formula as ours."""
        before, after = (TriggerEffect(None, acc, asr, 0.0) for acc, asr in zip(self.accuracy, self.asr, strict=True))
        return der(before, after)


@cache
def published() -> tuple[PublishedFigure, ...]:
    """All figures, in the order of the file."""
    document = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    sources = {name: Source(**source) for name, source in document["sources"].items()}
    pairs = ("accuracy", "asr")
    return tuple(
        PublishedFigure(**{**figure, "source": sources[figure["source"]], **{key: tuple(figure[key]) for key in pairs}})
        for figure in document["figures"]
    )


def published_on(attack: str, room: str) -> list[PublishedFigure]:
    """What defences of one kind came to on one trigger."""
    return [figure for figure in published() if (figure.attack, figure.room) == (attack, room)]


def sources(attacks: Iterable[str]) -> list[Source]:
    """Of the figures for these triggers, each once."""
    wanted = set(attacks)
    return list(dict.fromkeys(figure.source for figure in published() if figure.attack in wanted))
