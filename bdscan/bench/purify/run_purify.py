"""`bdscan bench purify`: labelled models purified, and what came of it measured with the trigger at hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bdscan.bench.output import RESULTS, arch_of, check_writable, conclude, run_jobs
from bdscan.facts.effort import Effort
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
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = "standard",
    budget: Annotated[float | None, typer.Option(help="Seconds a purification may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Leave the cleaned models here.")] = None,
    results: Annotated[Path, typer.Option(help="A small file a job; what is there is not done again.")] = RESULTS,
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Purify labelled models and print ACC, ASR, RA and DER, before and after."""
    from bdscan.bench.labels import read_labels
    from bdscan.bench.purify import purify_table
    from bdscan.bench.purify.purify_table import purify_row
    from bdscan.bench.workers.job import PurifyJob
    from bdscan.bench.workers.jobs import make_folder

    check_writable(output)
    methods = name or [*registry.names("purify"), AUTO]
    _check_names(methods, probe or [], set_ or [])
    _check_files(clean, test, triggers, images or [])
    if keep is not None:
        make_folder(keep)
    draws: list[int | None] = [*(images or [])] or [None]
    labels = {label.name: label for label in read_labels(models)}
    work = [
        PurifyJob(
            name=label.name,
            model=str(label.model),
            purifier=purifier,
            images=count,
            clean=clean,
            test=test,
            triggers=None if triggers is None else str(triggers),
            keep=None if keep is None else str(keep),
            arch=arch_of(arch, label),
            normalize=normalize,
            probes=tuple(probe or ()),
            settings=tuple(set_ or ()),
            effort=effort,
            budget=budget,
            device=device.value,
            seed=seed,
        )
        for count in dict.fromkeys(draws)
        for purifier in dict.fromkeys(methods)
        for label in labels.values()
    ]
    finished = run_jobs(work, results, jobs, engine)
    rows = [purify_row(labels[result.job.name], result) for result in finished]
    conclude(finished, purify_table.grids(rows), partial(purify_table.figures, rows), output)


def _check_names(methods: Sequence[str], probes: Sequence[str], settings: Sequence[str]) -> None:
    """Wrong names are told before hours of work."""
    purifiers = registry.names("purify")
    for name in methods:
        registry.check_name(name, [*purifiers, AUTO])
    for name in probes:
        registry.check_name(name, registry.names("probes"))
    for name, given in registry.given(settings).items():
        registry.check_name(name, [*registry.names("probes"), *purifiers])
        registry.configure("purify" if name in purifiers else "probes", name, given)


def _check_files(clean: str, test: str | None, triggers: Path | None, images: Sequence[int]) -> None:
    """Files that are not there, and draws from too few images, are told before hours of work too."""
    from bdscan.images.source import open_images

    count = open_images(clean).count
    if images and max(images) > count:
        raise Problem(f"`{clean}` holds {count} images, not {max(images)}", status=USAGE)
    if test is not None:
        open_images(test)
    if triggers is not None and not triggers.is_file():
        raise Problem(f"no such file: `{triggers}`", hint="--triggers takes FILE.py", status=USAGE)
