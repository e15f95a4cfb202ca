"""`bdscan inspect`: many models, one report each, the gravest decides the exit status."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from bdscan.cli import options
from bdscan.cli.choices import FailOn, Format
from bdscan.cli.console import say, say_beside
from bdscan.cli.report_files import check_writable, destinations, write
from bdscan.cli.report_stream import ReportStream
from bdscan.facts.effort import Effort
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.source.addresses import MAX_MODEL_MB
from bdscan.method.registry import given
from bdscan.net.device import Device

_Value = TypeVar("_Value")


def inspect(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="PATH...", help="Models, folders, patterns, addresses.")],
    clean: options.CleanIfAny = None,
    arch: options.Arch = "auto",
    source: options.Source = None,
    normalize: options.Normalize = "auto",
    size: options.Size = None,
    classes: options.Classes = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PROBE.SETTING=VALUE")] = None,
    effort: Annotated[Effort, typer.Option(help="How long to look.")] = "standard",
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
    from bdscan import pipeline
    from bdscan.cli.progress_bar import ProgressBar
    from bdscan.gate.apply import GateRecord
    from bdscan.gate.baseline import read_baseline
    from bdscan.gate.outputs import check_outputs
    from bdscan.gate.policy import Policy, read_policy
    from bdscan.gate.provenance import factory_file, inputs, source_file
    from bdscan.load.source.gather import gather
    from bdscan.pipeline.scan import Scanner, open_cache
    from bdscan.pipeline.scan_many import scan_many

    rules = read_policy(policy) if policy else Policy()
    fail_on = FailOn(_typed_or(rules.fail_on, fail_on, context, "fail_on"))
    effort = _typed_or(rules.effort, effort, context, "effort")
    budget = _typed_or(rules.budget, budget, context, "budget")
    where = destinations(output, form, sbom=sbom, attest=attest)
    if write_baseline is not None:
        check_writable(write_baseline)
    read = {
        "clean": clean,
        "classes": classes,
        "policy": policy,
        "baseline": baseline,
        "arch": factory_file(arch),
        "source": source_file(source),
    }
    known_findings = read_baseline(baseline) if baseline else None
    gathered = gather(models)
    if gathered.left_out:
        say(gathered.left_out)
    many = len(gathered.models) + len(gathered.problems) > 1
    if many and where.uses(Format.html):
        raise Problem("one HTML file holds one model's report", hint="inspect them one by one", status=USAGE)
    written = [*(file.path for file in where.all_files), *([write_baseline] if write_baseline else [])]
    check_outputs(written, gathered.models, read, renewed=write_baseline)
    gate = pipeline.GateOptions(policy=rules, baseline=known_findings, inputs=inputs(read))
    stream = ReportStream(where, fail_on, many=gathered.listed or many)
    with closing(ProgressBar()) as bar:
        request = pipeline.Options(
            clean=clean,
            arch=arch,
            source=source,
            normalize=normalize,
            size=size,
            classes=classes,
            probes=tuple(probe or ()),
            settings=given(set_ or []),
            effort=effort,
            budget=budget,
            device=device.value,
            seed=seed,
            show=bar.show,
        )
        if cache is None and gathered.models:  # a report in the cache had right settings
            pipeline.select(request)  # raises on wrong ones before anything is read
        scanner = Scanner(request, open_cache(cache, request) if cache else None, max_size * 1e6)
        record = GateRecord(gate)
        try:
            for result in scan_many(gathered, scanner, gate, jobs):
                bar.close()
                say_beside(result)
                record.add(result.report)
                stream.add(result.report)
        except Problem as problem:
            if not stream.found:
                raise
            say(problem.message, problem.hint)
    for remark in record.remarks():
        say(remark)
    if write_baseline is not None:
        write(write_baseline, record.next_baseline().to_json())
    status = stream.finish()
    raise typer.Exit(0 if exit_zero else status)


def _typed_or(in_policy: _Value | None, value: _Value, context: typer.Context, option: str) -> _Value:
    """The policy's value, where it has one and the option was not given on the command line."""
    source = context.get_parameter_source(option)
    typed = source is not None and source.name == "COMMANDLINE"
    return value if typed or in_policy is None else in_policy
