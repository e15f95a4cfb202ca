"""`bdscan bench plant`: nets with known triggers, and clean ones beside them, for everything else to be measured on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan.bench.labels import MAX_CONTROL_ASR, MIN_BACKDOOR_ASR
from bdscan.bench.output import RESULTS, check_writable, command_line, conclude, run_jobs
from bdscan.bench.results import JobResult, PlantOutcome
from bdscan.bench.tables.grid import NOTHING, Grid, count
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.net.device import Device

if TYPE_CHECKING:
    from bdscan.bench.workers.job import Json

LEARNING_RATE = 0.1  # as in most published trainings of nets with norms
SCHEMA = "bdscan.bench.plant/1"
TITLE = (
    f"Nets: backdoored from {MIN_BACKDOOR_ASR:.0%} success on, a control below {MAX_CONTROL_ASR:.0%}, "
    "else left out of every figure"
)


def plant(
    data: Annotated[str, typer.Option(help="Training images: a folder, .npz, .tar or cifar10:ROOT.")],
    test: Annotated[str, typer.Option(help="Images to measure on.")],
    models: Annotated[Path, typer.Option(metavar="DIR", help="Where the nets and their labels go.")],
    arch: Annotated[list[str], typer.Option(help="wrn-16-1, torchvision:NAME, ... (repeatable).")],
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--plant", metavar="NAME[@SHARE][:SETTING=VALUE,...]", help="This trigger (repeatable); without: all."
        ),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="Share poisoned (repeatable); without: as published.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Nets of each kind.")] = 1,
    controls: Annotated[int, typer.Option(min=0, help="Clean nets of each architecture.")] = 0,
    target: Annotated[int | None, typer.Option(min=0, help="The class; without: drawn by trigger and seed.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Draw so many training images.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How long to train.")] = 20,
    batch: Annotated[int, typer.Option(min=2, help="Images a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of SGD; nets without norms need less.")] = LEARNING_RATE,
    flip: Annotated[bool, typer.Option(help="Mirror images; not for signs, digits or letters.")] = True,
    normalize: Annotated[str, typer.Option(help="imagenet, cifar10, none or MEAN/STD.")] = "none",
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="The first one; same seed, same nets.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Nets at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    results: Annotated[Path, typer.Option(help="A small file a net; what is there is not done again.")] = RESULTS,
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Train nets with known triggers, and clean ones, and print what came of it."""
    from bdscan.bench.workers.job import PlantJob
    from bdscan.bench.workers.jobs import make_folder

    check_writable(output)
    specs = [parse_plant(text) for text in name or registry.names("plant")]
    _check_files(data, test, arch)
    make_folder(models)
    work = [
        PlantJob(
            name=net.name,
            model=str(models / f"{net.name}.safetensors"),
            clean=data,
            test=test,
            arch=net.arch,
            plant=net.plant.name if net.plant else None,
            settings=net.plant.settings if net.plant else (),
            rate=net.rate,
            target=target,
            images=images,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            flip=flip,
            normalize=normalize,
            device=device.value,
            seed=net.seed,
            command=command_line(),
        )
        for net in _suite(specs, rate, arch, range(seed, seed + seeds), range(seed, seed + controls))
    ]
    finished = run_jobs(work, results, jobs, engine)
    conclude(finished, grids(finished), partial(figures, finished), output)


@dataclass(frozen=True)
class PlantSpec:
    """A trigger and its settings."""

    name: str
    settings: tuple[str, ...]
    rate: float  # as published, or its own
    fixed: bool = False  # its own

    @property
    def title(self) -> str:
        return re.sub(r"[^\w.]+", "-", "-".join((self.name, *self.settings)))


@dataclass(frozen=True)
class SuiteNet:
    """One net of the suite."""

    arch: str
    plant: PlantSpec | None  # None: clean
    rate: float
    seed: int

    @property
    def name(self) -> str:
        arch = re.sub(r"[^\w.]+", "-", self.arch.rpartition(":")[2])
        if self.plant is None:
            return f"{arch}-clean-{self.seed}"
        return f"{arch}-{self.plant.title}-{100 * self.rate:g}-{self.seed}"  # the share in per cent


def _suite(
    plants: Sequence[PlantSpec], rates: Sequence[float] | None, arches: Sequence[str], seeds: range, controls: range
) -> Iterator[SuiteNet]:
    """First one of everything, then the next seed: whoever stops early has something of each."""
    for seed in dict.fromkeys((*seeds, *controls)):
        for arch in dict.fromkeys(arches):
            if seed in seeds:
                for plant in dict.fromkeys(plants):
                    shares = [plant.rate] if plant.fixed or not rates else dict.fromkeys(rates)
                    yield from (SuiteNet(arch, plant, share, seed) for share in shares)
            if seed in controls:
                yield SuiteNet(arch, None, 0.0, seed)


def parse_plant(text: str) -> PlantSpec:
    """`NAME[@SHARE][:SETTING=VALUE,...]`: wrong names and settings are told before hours of work."""
    head, _, rest = text.partition(":")
    name, at, share = head.partition("@")
    settings = tuple(part for part in rest.split(",") if part)
    given = registry.given([f"{name}.{part}" for part in settings]).get(name, {})
    plant = registry.configure("plant", name, given)
    return PlantSpec(name, settings, _share(share) if at else plant.share, bool(at))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 < share <= 1:
        raise Problem(f"`@{text}` is no share of the training images", hint="such as @0.05", status=USAGE)
    return share


def _check_files(data: str, test: str, arches: Sequence[str]) -> None:
    """Files and architectures that are not there are told before hours of work too."""
    from bdscan.images.source import open_images
    from bdscan.load.arch.fresh import fresh

    source = open_images(data, training=True)
    open_images(test)
    for arch in arches:
        fresh(arch, max(2, len(source.names)), source.size or (3, 32, 32))


def grids(results: Sequence[JobResult]) -> list[Grid]:
    """One row a net."""
    columns = ("net", "trigger", "share", "target", "ACC", "ASR", "counts as", "seconds")
    return [Grid(TITLE, columns, tuple(_row(result) for result in results))]


def _row(result: JobResult) -> tuple[str, ...]:
    if not isinstance(result.outcome, PlantOutcome):
        return (result.job.name, str(result.failure), *[NOTHING] * 6)
    label = result.outcome.label
    return (
        result.job.name,
        label.attack or "none",
        f"{label.rate:.1%}" if label.attack else NOTHING,
        count(label.target, "all") if label.attack else NOTHING,
        NOTHING if label.accuracy is None else f"{label.accuracy:.1%}",
        NOTHING if label.success is None else f"{label.success:.1%}",
        label.kind,
        f"{result.outcome.seconds:.0f}",
    )


def figures(results: Sequence[JobResult], command: str) -> Json:
    """All figures, for programs."""
    nets = [{"name": each.job.name, "failure": each.raw["failure"], **(each.raw["outcome"] or {})} for each in results]
    return {"schema": SCHEMA, "command": command, "nets": nets}
