"""`bdscan train`: data nobody vouches for in, a net and its suspects out, and a report on both."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan.cli import options
from bdscan.cli.choices import FailOn
from bdscan.cli.console import say
from bdscan.cli.report_files import check_writable, destinations
from bdscan.cli.report_stream import conclude
from bdscan.facts.effort import Effort
from bdscan.method.registry import given
from bdscan.net.device import Device

if TYPE_CHECKING:
    from bdscan.pipeline.options import Show


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
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = "standard",
    budget: Annotated[float | None, typer.Option(help="Seconds the check may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the net is trained.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    fail_on: options.FailOn = FailOn.suspicious,
) -> None:
    """Train a net on data nobody vouches for, and leave out what they hide."""
    from bdscan import pipeline
    from bdscan.cli.progress_bar import ProgressBar
    from bdscan.gate.outputs import check_outputs
    from bdscan.gate.provenance import factory_file, inputs

    where = destinations(report, form)
    if suspects is not None:
        check_writable(suspects)
    read = {"data": data, "clean": clean, "classes": classes, "arch": factory_file(arch)}
    check_outputs([output, *([suspects] if suspects else []), *(file.path for file in where.all_files)], [], read)
    gate = pipeline.GateOptions(inputs=inputs(read))
    with closing(ProgressBar()) as bar:
        request = pipeline.TrainOptions(
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
            effort=effort,
            budget=budget,
            device=device.value,
            seed=seed,
            show=_bar_or_log(bar.show),
        )
        trained = pipeline.apply_gate(pipeline.train(data, request), gate)
    for path in (output, *([suspects] if suspects else [])):
        say(f"wrote {path}")
    conclude(trained, where, fail_on)


LOG_SECONDS = 60.0  # between two lines of a log


def _bar_or_log(show: Show) -> Show:
    """On a terminal the bar; in a log a line now and then, since a training may take hours."""
    if sys.stderr.isatty():
        return show
    last = time.monotonic()

    def log(name: str, done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last > LOG_SECONDS:
            last = time.monotonic()
            say(f"{name}: {what}, {100 * done // max(1, total)} %")

    return log
