"""`bdscan bench purify`: labelled models cured, and what came of it measured with the trigger at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bdscan.bench import output as said
from bdscan.bench.choices import Effort
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.net.device import Device

AUTO = "auto"


def purify(
    models: Annotated[Path, typer.Option(metavar="DIR", help="NAME.safetensors (.pt, .pth) beside NAME.json.")],
    clean: Annotated[str, typer.Option(help="Images you trust: a folder, .npz, .tar or cifar10:ROOT.")],
    test: Annotated[str | None, typer.Option(help="Images to measure on; without: those kept back.")] = None,
    triggers: Annotated[Path | None, typer.Option(metavar="FILE.py", help="A function of pixels an attack.")] = None,
    arch: Annotated[str, typer.Option(help="auto, or the FILE.py that holds the factories the labels name.")] = "auto",
    normalize: Annotated[str, typer.Option(help="auto, imagenet, cifar10, none or MEAN/STD.")] = "auto",
    name: Annotated[
        list[str] | None, typer.Option("--method", help="Only this purifier, or auto (repeatable).")
    ] = None,
    images: Annotated[list[int] | None, typer.Option(min=1, help="Draw so many clean images (repeatable).")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe, before and after (repeatable).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="METHOD.SETTING=VALUE")] = None,
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = Effort.standard,
    budget: Annotated[float | None, typer.Option(help="Seconds a purification may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Leave the cleaned models here.")] = None,
    results: Annotated[Path, typer.Option(help="A small file a job; what is there is not done again.")] = Path(
        "bench-results"
    ),
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Purify labelled models and print ACC, ASR, RA and DER, before and after."""
    from bdscan.bench.labels import read
    from bdscan.bench.purify import purify_rows, purify_table
    from bdscan.bench.purify.purify_job import Purification
    from bdscan.bench.workers.jobs import run

    said.writable(output)
    methods = name or [*registry.names("purify"), AUTO]
    _known(methods, probe or [], set_ or [])
    _there(clean, test, triggers, images or [])
    _folder(keep)
    draws: list[int | None] = [*(images or [])] or [None]
    labels = {label.name: label for label in read(models)}
    work = [
        Purification(
            name=label.name,
            model=str(label.model),
            purifier=purifier,
            images=count,
            clean=clean,
            test=test,
            triggers=None if triggers is None else str(triggers),
            keep=None if keep is None else str(keep),
            arch=said.arch(arch, label),
            normalize=normalize,
            probes=tuple(probe or ()),
            settings=tuple(set_ or ()),
            effort=effort.value,
            budget=budget,
            device=device.value,
            seed=seed,
        )
        for count in dict.fromkeys(draws)
        for purifier in dict.fromkeys(methods)
        for label in labels.values()
    ]
    made = run(work, results, workers=jobs, engine=engine, command_line=said.command(), on_result=said.tell)
    rows = [purify_rows.read(labels[job.name], result) for job, result in zip(work, made, strict=True)]
    said.present(purify_table.grids(rows), lambda: purify_table.document(rows, said.command()), output)
    said.failures(made)


def _known(methods: Sequence[str], probes: Sequence[str], settings: Sequence[str]) -> None:
    """Wrong names are told before hours of work."""
    purifiers = registry.names("purify")
    for name in methods:
        registry.known(name, [*purifiers, AUTO])
    for name in probes:
        registry.known(name, registry.names("probes"))
    for name, given in registry.given(settings).items():
        registry.known(name, [*registry.names("probes"), *purifiers])
        registry.configure("purify" if name in purifiers else "probes", name, given)


def _there(clean: str, test: str | None, triggers: Path | None, images: Sequence[int]) -> None:
    """So are files that are not there, and draws from too few images."""
    from bdscan.images.source import open_images

    count = open_images(clean).count
    if images and max(images) > count:
        raise Problem(f"`{clean}` holds {count} images, not {max(images)}", status=USAGE)
    if test is not None:
        open_images(test)
    if triggers is not None and not triggers.is_file():
        raise Problem(f"no such file: `{triggers}`", hint="--triggers takes FILE.py", status=USAGE)


def _folder(keep: Path | None) -> None:
    try:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"cannot write to `{keep}`: {error.strerror}", status=USAGE) from None
