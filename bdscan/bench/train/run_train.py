"""`bdscan bench train`: data poisoned with known triggers, trained on with and without defence, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan.bench.output import RESULTS, check_writable, conclude, run_jobs
from bdscan.bench.plant.run_plant import PlantSpec, parse_plant
from bdscan.bench.results import JobResult, TrainOutcome
from bdscan.bench.tables.grid import NOTHING, Grid, count, percent
from bdscan.facts.effort import Effort
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.net.device import Device, device_of

if TYPE_CHECKING:
    from bdscan.bench.train.pace import Pace
    from bdscan.bench.workers.job import Json

SCHEMA = "bdscan.bench.train/1"


def train(
    data: Annotated[str, typer.Option(help="Training images: a folder, .npz, .tar or cifar10:ROOT.")],
    test: Annotated[str, typer.Option(help="Images to measure on.")],
    arch: Annotated[str, typer.Option(help="wrn-16-1 and the like, torchvision:NAME, timm:NAME or FILE.py:factory.")],
    plant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[@SHARE][:SETTING=VALUE,...]", help="Poison with this trigger (repeatable)."),
    ] = None,
    clean: Annotated[bool, typer.Option(help="Train on the data as they are, too.")] = True,
    name: Annotated[list[str] | None, typer.Option("--method", help="Only this trainer (repeatable).")] = None,
    target: Annotated[int, typer.Option(min=0, help="The class that the triggers lead to.")] = 0,
    images: Annotated[int | None, typer.Option(min=1, help="Draw so many training images.")] = None,
    side: Annotated[int | None, typer.Option("--size", min=8, help="Scale the images to this side first.")] = None,
    augment: Annotated[str, typer.Option(help="auto, none, shift or flip.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="METHOD.SETTING=VALUE")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Check by this probe only (repeatable).")] = None,
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = "standard",
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    pace: Annotated[bool, typer.Option("--pace", help="Time the loop too, beside a bare one.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, a process each.")] = 1,
    results: Annotated[Path, typer.Option(help="A small file a training; what is there is not done again.")] = RESULTS,
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Train on poisoned data by every method, and print ACC, ASR and what was isolated."""
    from bdscan.bench.workers.job import TrainJob

    check_writable(output)
    methods = name or registry.names("train")
    settings = tuple(set_ or ())
    _check_names(methods, settings)
    plants: list[PlantSpec | None] = [*map(parse_plant, plant or ()), *([None] if clean else [])]
    if not plants:
        raise Problem("there is nothing to train on", hint="--plant NAME, or without --no-clean", status=USAGE)
    work = [
        TrainJob(
            name=f"{spec.title}-{100 * spec.rate:g}-{seed}.{trainer}" if spec else f"clean-{seed}.{trainer}",
            clean=data,
            test=test,
            trainer=trainer,
            options=tuple(each for each in settings if each.partition(".")[0] == trainer),
            plant=spec.name if spec else None,
            settings=spec.settings if spec else (),
            rate=spec.rate if spec else 0.0,
            target=target,
            images=images,
            side=side,
            augment=augment,
            arch=arch,
            probes=tuple(probe or ()),
            effort=effort,
            device=device.value,
            seed=seed,
        )
        for spec in plants
        for trainer in dict.fromkeys(methods)
    ]
    finished = run_jobs(work, results, jobs)
    timed = _time_loop(arch, side or 32, device.value) if pace else None
    conclude(finished, grids(finished), partial(figures, finished, pace=timed), output)


def _time_loop(arch: str, side: int, device: str) -> Pace:
    """In this process, when no training runs beside it."""
    from bdscan.bench.train.pace import measure_pace

    timed = measure_pace(arch, side, 128, device_of(device))
    rates = f"{timed.trained:.0f} images a second in training, {timed.bare:.0f} forward and backward alone"
    typer.echo(f"bdscan: {rates}: {timed.share:.0%}", err=True)
    return timed


def _check_names(methods: list[str], settings: tuple[str, ...]) -> None:
    """Wrong names are told before hours of work."""
    for name in methods:
        registry.check_name(name, registry.names("train"))
    for name, given in registry.given(settings).items():
        registry.check_name(name, registry.names("train"))
        registry.configure("train", name, given)


def grids(results: Sequence[JobResult]) -> list[Grid]:
    """One row a training, in the order in which they were asked for."""
    columns = ("trigger", "poisoned", "method", "ACC", "ASR", "isolated", "precision", "recall", "p", "verdict", "s")
    return [Grid("Training on data nobody vouches for, in per cent", columns, tuple(_row(each) for each in results))]


def _row(result: JobResult) -> tuple[str, ...]:
    job, outcome = result.job, result.outcome
    trigger = ":".join((job.plant, *job.settings)) if job.plant else "clean"
    head = (trigger, f"{100 * job.rate:g}" if job.plant else NOTHING, str(job.trainer))
    if not isinstance(outcome, TrainOutcome):
        return (*head, *[NOTHING] * 6, str(result.failure), NOTHING)
    return (
        *head,
        percent(outcome.accuracy),
        percent(outcome.success),
        count(outcome.isolated),
        percent(outcome.precision),
        percent(outcome.recall),
        NOTHING if outcome.p_value is None else f"{outcome.p_value:.1g}",
        outcome.verdict,
        f"{outcome.seconds:.0f}",
    )


def figures(results: Sequence[JobResult], command: str, pace: Pace | None = None) -> Json:
    """All figures, for programs: shares, not per cent."""
    trainings = [_training_json(result.raw) for result in results]
    return {"schema": SCHEMA, "command": command, "pace": pace and pace.json(), "trainings": trainings}


def _training_json(raw: Json) -> Json:
    outcome = raw["outcome"] if raw["failure"] is None else {}
    kept = {key: value for key, value in outcome.items() if key != "passes"}
    return {"job": raw["job"], "failure": raw["failure"], "seconds": raw["seconds"], **kept}
