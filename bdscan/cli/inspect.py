"""`bdscan inspect`: many models, one report each, the gravest decides the exit status."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bdscan.bench.choices import Effort
from bdscan.cli import options
from bdscan.cli import output as said
from bdscan.cli.choices import FailOn, Format
from bdscan.cli.report_stream import ReportStream
from bdscan.cli.scan import Scan, opened, reports
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.source.addresses import MAX_MODEL_MB
from bdscan.method.registry import given
from bdscan.net.device import Device

if TYPE_CHECKING:
    from bdscan.gate.policy import Policy

_Value = TypeVar("_Value")


def inspect(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="PATH...", help="Models, folders, patterns, addresses.")],
    clean: options.CleanIfAny = None,
    arch: options.Arch = "auto",
    normalize: options.Normalize = "auto",
    classes: options.Classes = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PROBE.SETTING=VALUE")] = None,
    effort: Annotated[Effort, typer.Option(help="How long to look.")] = Effort.standard,
    budget: Annotated[float | None, typer.Option(help="Seconds a model may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the net runs.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same report.")] = 0,
    form: Annotated[Format | None, typer.Option("--format", help="By default text, or by the output's suffix.")] = None,
    output: Annotated[list[Path] | None, typer.Option(help="Write the report here (repeatable).")] = None,
    sbom: options.Sbom = None,
    attest: options.Attest = None,
    fail_on: options.FailOn = FailOn.suspicious,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Look at N models at once.")] = 1,
    max_size: Annotated[int, typer.Option(min=1, metavar="MB", help="The largest model to be fetched.")] = MAX_MODEL_MB,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="What your team asks of models, in TOML.")] = None,
    baseline: Annotated[Path | None, typer.Option(metavar="FILE", help="Findings in it are told, but pass.")] = None,
    write_baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what is found to this one.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep reports here, and show them again while the bytes of model and images, the options and all "
            "versions are the same. Whoever can write there can forge a verdict.",
        ),
    ] = None,
) -> None:
    """Look for a backdoor in each model."""
    from bdscan.cli.baseline_file import Known
    from bdscan.cli.progress_bar import ProgressBar
    from bdscan.gate.policy import Policy, read
    from bdscan.gate.provenance import factory, inputs
    from bdscan.load.source.gather import gather
    from bdscan.pipeline import Options, select

    rules, today = read(policy) if policy else Policy(), datetime.now(UTC).date()
    fail_on = FailOn(_wins(context, "fail_on", fail_on, rules.fail_on))
    effort = Effort(_wins(context, "effort", effort, rules.effort))
    budget = _wins(context, "budget", budget, rules.budget)
    outputs, told = said.forms(output or [], form), form or Format.text
    for path, _ in outputs:
        said.writable(path)
    beside = said.beside(sbom, attest)
    known = Known(baseline, write_baseline)
    gathered = gather(models)
    if gathered.left_out:
        said.say(gathered.left_out)
    count = len(gathered.models) + len(gathered.problems)
    if count > 1 and Format.html in (*(each for _, each in outputs), told):
        raise Problem("one HTML file holds one model's report", hint="inspect them one by one", status=USAGE)
    read_too = inputs(
        {"clean": clean, "classes": classes, "policy": policy, "baseline": baseline, "arch": factory(arch)}
    )
    teller = ReportStream(outputs, told, fail_on, many=gathered.listed or count > 1, beside=beside, inputs=read_too)
    with ProgressBar() as bar:
        asked = Options(
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
        if cache is None and gathered.models:
            select(asked)  # wrong settings are told before anything is read; a report in the cache had right ones
        scan = Scan(asked, opened(cache, asked) if cache else None, max_size * 1e6)
        for report in reports(gathered, scan, jobs):
            bar.stop()
            teller.tell(known.applied(rules.applied(report, today)))
    _unused(rules, teller.sha256, today)
    known.finish()
    status = teller.finish()
    raise typer.Exit(0 if exit_zero else status)


def _wins(context: typer.Context, option: str, here: _Value, in_file: _Value | None) -> _Value:
    """The command line, where the option was given there; else the policy, where it has one."""
    source = context.get_parameter_source(option)
    given_here = source is not None and source.name == "COMMANDLINE"
    return here if given_here or in_file is None else in_file


def _unused(rules: Policy, seen: set[str | None], today: date) -> None:
    """What lets nothing pass, though somebody thinks it does."""
    expired = rules.expired(today)
    for each in expired:
        said.say(f"the acceptance of {each.sha256[:12]}… expired on {each.expires} and does not count: {each.reason}")
    for each in rules.unused(seen):
        if each not in expired:
            said.say(f"the acceptance of {each.sha256[:12]}… fits none of the files that were looked at: {each.reason}")
