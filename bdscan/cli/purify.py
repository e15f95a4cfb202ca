"""`bdscan purify`: one file in, one cleaned file out, and a report on both."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from bdscan.cli import options
from bdscan.cli.choices import FailOn
from bdscan.cli.console import say
from bdscan.cli.report_files import destinations
from bdscan.cli.report_stream import conclude
from bdscan.facts.effort import Effort
from bdscan.facts.problem import USAGE, Problem
from bdscan.method.registry import given
from bdscan.net.device import Device


def purify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, or a folder holding one.")],
    clean: options.Clean,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the cleaned model goes.")],
    method: Annotated[str, typer.Option(help="auto, or one of the purifiers of `bdscan methods`.")] = "auto",
    report: options.Reports = None,
    form: options.ReportFormat = None,
    sbom: options.Sbom = None,
    attest: options.Attest = None,
    onnx: Annotated[Path | None, typer.Option(help="Export the cleaned model to this file as well.")] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="FILE", help="A trigger you know, to be measured: .png with alpha or .npz.")
    ] = None,
    target: Annotated[int | None, typer.Option(min=0, help="The class that this trigger leads to.")] = None,
    precaution: Annotated[
        bool, typer.Option("--precaution", help="Exit with 0 too where there was nothing found to remove.")
    ] = False,
    arch: options.Arch = "auto",
    source: options.Source = None,
    normalize: options.Normalize = "auto",
    size: options.Size = None,
    classes: options.Classes = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe, before and after (repeatable).")] = None,
    preset: options.Preset = None,
    set_: options.MethodSettings = None,
    effort: Annotated[Effort, typer.Option(help="How long the probes look.")] = "standard",
    budget: Annotated[float | None, typer.Option(help="Seconds it may take in all.")] = None,
    device: Annotated[Device, typer.Option(help="Where the net runs.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same model.")] = 0,
    fail_on: options.FailOn = FailOn.suspicious,
) -> None:
    """Remove a backdoor, and verify that without knowing the trigger."""
    from bdscan import pipeline
    from bdscan.cli.progress_bar import ProgressBar
    from bdscan.gate.outputs import check_outputs
    from bdscan.gate.provenance import factory_file, inputs, source_file
    from bdscan.load.source.addresses import parse, shown

    if parse(model):
        raise Problem(f"`{shown(model)}` lies elsewhere, and purify takes what is here", hint="fetch it", status=USAGE)
    where = destinations(report, form, sbom=sbom, attest=attest)
    read = {
        "clean": clean,
        "classes": classes,
        "arch": factory_file(arch),
        "source": source_file(source),
        "trigger": trigger,
    }
    check_outputs([output, *([onnx] if onnx else []), *(file.path for file in where.all_files)], [model], read)
    gate = pipeline.GateOptions(inputs=inputs(read))
    with closing(ProgressBar()) as bar:
        request = pipeline.PurifyOptions(
            clean=clean,
            output=output,
            onnx=onnx,
            method=method,
            trigger=trigger,
            target=target,
            precaution=precaution,
            arch=arch,
            source=source,
            normalize=normalize,
            size=size,
            classes=classes,
            probes=tuple(probe or ()),
            settings=given(set_ or []),
            preset=preset,
            effort=effort,
            budget=budget,
            device=device.value,
            seed=seed,
            show=bar.show,
            tell=say,
        )
        treated = pipeline.apply_gate(pipeline.purify(model, request), gate)
    say(f"wrote {output}")
    conclude(treated, where, fail_on)
