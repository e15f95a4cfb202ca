"""`bdscan train`: data nobody vouches for in, a net and its suspects out, and a report on both."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bdscan.bench.choices import Effort
from bdscan.cli import options
from bdscan.cli import output as said
from bdscan.cli.choices import FailOn
from bdscan.method.registry import given
from bdscan.net.device import Device


def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, .npz, .tar or cifar10:ROOT.")],
    arch: Annotated[str, typer.Option(help="wrn-16-1 and the like, torchvision:NAME, timm:NAME or FILE.py:factory.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the model goes: a .safetensors.")],
    method: Annotated[str, typer.Option(help="abl or plain.")] = "abl",
    suspects: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write every image's score here.")] = None,
    report: options.Reports = None,
    form: options.ReportFormat = None,
    clean: Annotated[str | None, typer.Option(help="Images you do trust, to check the result by.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Class names in the order of the labels.")] = None,
    side: Annotated[int | None, typer.Option("--size", min=8, help="Side of the net's input, in pixels.")] = None,
    normalize: Annotated[str, typer.Option(help="auto (measured), imagenet, cifar10, none or MEAN/STD.")] = "auto",
    augment: Annotated[str, typer.Option(help="auto, none, shift or flip (shifted and mirrored).")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")] = False,
    probe: Annotated[list[str] | None, typer.Option(help="Check by this probe only (repeatable).")] = None,
    preset: options.Preset = None,
    set_: options.MethodSettings = None,
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = Effort.standard,
    budget: Annotated[float | None, typer.Option(help="Seconds the check may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the net is trained.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    fail_on: options.FailOn = FailOn.suspicious,
) -> None:
    """Train a net on data nobody vouches for, and leave out what they hide."""
    from dataclasses import replace

    from bdscan import pipeline
    from bdscan.cli.progress_bar import ProgressBar
    from bdscan.gate.provenance import factory, inputs

    reports = said.forms(report or [], form)
    for path in [*(path for path, _ in reports), *([suspects] if suspects else [])]:
        said.writable(path)
    read = inputs({"data": data, "clean": clean, "classes": classes, "arch": factory(arch)})
    with ProgressBar() as bar:
        asked = pipeline.TrainOptions(
            clean=clean,
            output=output,
            suspects=suspects,
            method=method,
            arch=arch,
            augment=augment,
            side=side,
            resume=resume,
            normalize=normalize,
            classes=classes,
            probes=tuple(probe or ()),
            settings=given(set_ or []),
            preset=preset,
            effort=effort.value,
            budget=budget,
            device=device.value,
            seed=seed,
            show=_shown(bar.show),
        )
        done = replace(pipeline.train(data, asked), inputs=read)
    for path in (output, *([suspects] if suspects else [])):
        said.say(f"wrote {path}")
    said.conclude(done, reports, form, fail_on)


EVERY = 60.0  # seconds between two lines of a log


def _shown(show: Callable[[str, int, int, str], None]) -> Callable[[str, int, int, str], None]:
    """On a terminal the bar; in a log a line now and then, since a training may take hours."""
    if sys.stderr.isatty():
        return show
    last = time.monotonic()

    def tell(name: str, done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            said.say(f"{name}: {what}, {100 * done // max(1, total)} %")

    return tell
