"""`bdscan bench train`: data poisoned with known triggers, trained on with and without defence, and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bdscan.bench import output as said
from bdscan.bench.choices import Effort
from bdscan.bench.plant.run_plant import Kind, kind_of
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.net.device import Device, device_of


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
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = Effort.standard,
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    pace: Annotated[bool, typer.Option("--pace", help="Time the loop too, beside a bare one.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, a process each.")] = 1,
    results: Annotated[Path, typer.Option(help="A small file a training; what is there is not done again.")] = Path(
        "bench-results"
    ),
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Train on poisoned data by every method, and print ACC, ASR and what was isolated."""
    from bdscan.bench.train import train_table
    from bdscan.bench.train.train_job import Lesson
    from bdscan.bench.workers.jobs import run

    said.writable(output)
    methods = name or registry.names("train")
    settings = tuple(set_ or ())
    _known(methods, settings)
    kinds: list[Kind | None] = [*map(kind_of, plant or ()), *([None] if clean else [])]
    if not kinds:
        raise Problem("there is nothing to train on", hint="--plant NAME, or without --no-clean", status=USAGE)
    work = [
        Lesson(
            name=f"{kind.title}-{100 * kind.rate:g}-{seed}.{trainer}" if kind else f"clean-{seed}.{trainer}",
            clean=data,
            test=test,
            trainer=trainer,
            options=tuple(each for each in settings if each.partition(".")[0] == trainer),
            plant=kind.name if kind else None,
            settings=kind.settings if kind else (),
            rate=kind.rate if kind else 0.0,
            target=target,
            images=images,
            side=side,
            augment=augment,
            arch=arch,
            probes=tuple(probe or ()),
            effort=effort.value,
            device=device.value,
            seed=seed,
        )
        for kind in kinds
        for trainer in dict.fromkeys(methods)
    ]
    made = run(work, results, workers=jobs, command_line=said.command(), on_result=said.tell)
    timed = _paced(arch, side or 32, device.value) if pace else None
    said.present(train_table.grids(made), lambda: train_table.document(made, said.command(), timed), output)
    said.failures(made)


def _paced(arch: str, side: int, device: str) -> dict[str, Any]:
    """In this process, when no training runs beside it."""
    from bdscan.bench.train.pace import measure

    timed = measure(arch, side, 128, device_of(device))
    said = f"{timed['trained']:.0f} images a second in training, {timed['bare']:.0f} forward and backward alone"
    typer.echo(f"bdscan: {said}: {timed['share']:.0%}", err=True)
    return timed


def _known(methods: list[str], settings: tuple[str, ...]) -> None:
    """Wrong names are told before hours of work."""
    for name in methods:
        registry.known(name, registry.names("train"))
    for name, given in registry.given(settings).items():
        registry.known(name, registry.names("train"))
        registry.configure("train", name, given)
