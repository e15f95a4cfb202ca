"""`bdscan inspect`: many files, one report each, the gravest decides the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan.bench.commands import Effort
from bdscan.cli import said
from bdscan.cli.choices import Device, FailOn, Format
from bdscan.method import given
from bdscan.problem import USAGE, Problem

if TYPE_CHECKING:
    from bdscan.pipeline import Options
    from bdscan.report import Report


def inspect(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Checkpoints, or folders holding one.")],
    clean: Annotated[str | None, typer.Option(help="Images you trust: a folder, .npz, .tar or cifar10:ROOT.")] = None,
    arch: Annotated[str, typer.Option(help="auto, torchvision:NAME, timm:NAME or FILE.py:factory.")] = "auto",
    normalize: Annotated[str, typer.Option(help="auto, imagenet, cifar10, none or MEAN/STD.")] = "auto",
    classes: Annotated[Path | None, typer.Option(help="Class names in the model's order.")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PROBE.SETTING=VALUE")] = None,
    effort: Annotated[Effort, typer.Option(help="How long to look.")] = Effort.standard,
    budget: Annotated[float | None, typer.Option(help="Seconds a model may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the net runs.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same report.")] = 0,
    form: Annotated[Format | None, typer.Option("--format", help="By default text, or by the output's suffix.")] = None,
    output: Annotated[list[Path] | None, typer.Option(help="Write the report here (repeatable).")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="The least verdict that exits with 1.")] = FailOn.suspicious,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
) -> None:
    """Look for a backdoor in a checkpoint."""
    from bdscan.pipeline import Options, select
    from bdscan.progress import Bar

    outputs, many = said.forms(output or [], form), len(models) > 1
    told = form or Format.text
    if many and Format.html in (*(each for _, each in outputs), told):
        raise Problem("one HTML file holds one model's report", hint="inspect them one by one", status=USAGE)
    for path, _ in outputs:
        said.writable(path)
    reports: list[Report] = []
    with Bar() as bar:
        options = Options(
            clean=clean,
            arch=arch,
            normalize=normalize,
            classes=classes,
            probes=tuple(probe or ()),
            settings=given(set_ or []),
            effort=effort.value,
            budget=budget,
            device=device.value,
            seed=seed,
            show=bar.show,
        )
        select(options)  # wrong settings are told before anything is read
        for model in models:
            reports.append(_one(model, options))
            bar.stop()
            if outputs:
                said.say(f"{model}: {reports[-1].verdict.word}")
            elif told in said.LINE_BY_LINE:
                typer.echo(said.rendered(reports[-1:], told, fail_on, many=many, terminal=True))
    if not outputs and told not in said.LINE_BY_LINE:
        typer.echo(said.rendered(reports, told, fail_on, many=many))
    for path, each in outputs:
        said.write(path, said.rendered(reports, each, fail_on, many=many))
    statuses = [said.status_of(report, fail_on) for report in reports]
    raise typer.Exit(0 if exit_zero else next(code for code in said.GRAVEST_FIRST if code in statuses))


def _one(path: str, options: Options) -> Report:
    """One file's report; its failure never stops the others."""
    from bdscan import pipeline

    try:
        return pipeline.inspect(path, options)
    except Problem as problem:
        if problem.status == USAGE:
            raise
        said.say(f"{path}: {problem.message}", problem.hint)
        return said.unread(path, problem.message)
    except Exception as error:  # noqa: BLE001 - a crash must never look like a finding
        said.crash()
        return said.unread(path, f"our fault: {type(error).__name__}: {error}")
