"""Options of `bdscan bench`, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bdscan.bench import output as said
from bdscan.bench.choices import Baseline, Effort
from bdscan.bench.plant.run_plant import plant
from bdscan.bench.purify.run_purify import purify
from bdscan.bench.tables.run_table import table
from bdscan.bench.train.run_train import train
from bdscan.facts.problem import USAGE, Problem
from bdscan.net.device import Device

__all__ = ["Effort", "app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measures bdscan on models whose truth is known.",
)


@app.callback()
def _root() -> None:
    pass  # with a callback `detect` stays a command of its own


@app.command()
def detect(
    models: Annotated[Path, typer.Option(metavar="DIR", help="NAME.safetensors (.pt, .pth) beside NAME.json.")],
    clean: Annotated[str | None, typer.Option(help="Images you trust: a folder, .npz, .tar or cifar10:ROOT.")] = None,
    arch: Annotated[str, typer.Option(help="auto, or the FILE.py that holds the factories the labels name.")] = "auto",
    normalize: Annotated[str, typer.Option(help="auto, imagenet, cifar10, none or MEAN/STD.")] = "auto",
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    effort: Annotated[Effort, typer.Option(help="How long to look.")] = Effort.standard,
    budget: Annotated[float | None, typer.Option(help="Seconds a model may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    baseline: Annotated[Baseline | None, typer.Option(help="Run this published method too.")] = None,
    baseline_steps: Annotated[int, typer.Option(min=1, help="Steps it takes for each class.")] = 1000,
    results: Annotated[Path, typer.Option(help="A small file a model; what is there is not done again.")] = Path(
        "bench-results"
    ),
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Inspect labelled models and print AUC, detection and false alarms."""
    from bdscan.bench.detect import detect_rows, detect_table
    from bdscan.bench.labels import read
    from bdscan.bench.workers.jobs import Job, run

    said.writable(output)
    labels = read(models)
    work = [
        Job(
            name=label.name,
            method="inspect",
            model=str(label.model),
            clean=clean,
            arch=said.arch(arch, label),
            normalize=normalize,
            probes=tuple(probe or ()),
            effort=effort.value,
            budget=budget,
            device=device.value,
            seed=seed,
        )
        for label in labels
    ]
    if baseline:  # its steps are no reason to inspect again
        work += [replace(job, method=baseline.value, steps=baseline_steps) for job in work]
    made = run(work, results, workers=jobs, engine=engine, command_line=said.command(), on_result=said.tell)
    by_name = {label.name: label for label in labels}
    found = [detect_rows.read(by_name[job.name], result) for job, result in zip(work, made, strict=True)]
    said.present(detect_table.grids(found), lambda: detect_table.document(found, said.command()), output)
    said.failures(made)


app.command()(plant)
app.command()(purify)
app.command()(table)
app.command()(train)


@app.command()
def reference(
    models: Annotated[list[Path], typer.Option(metavar="DIR", help="Labelled models; the clean ones count.")],
    clean: Annotated[list[str], typer.Option(help="Images you trust, one set for each DIR.")],
    arch: Annotated[str, typer.Option(help="auto, or the FILE.py that holds the factories the labels name.")] = "auto",
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe; the others' statistics stay.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    results: Annotated[Path, typer.Option(help="A small file a model; what is there is not done again.")] = Path(
        "bench-results"
    ),
    output: Annotated[Path | None, typer.Option(help="Write the statistics here, not into the package.")] = None,
) -> None:
    """Measure how clean nets score, for the p-values of all later inspections."""
    from bdscan.bench.detect.calibrate import CALIBRATED, by_statistic, gather, write
    from bdscan.bench.detect.leave_out import judged
    from bdscan.bench.labels import Kind, read
    from bdscan.bench.workers.jobs import Job, run
    from bdscan.verdict.calibration import STATISTICS

    if len(models) != len(clean):
        raise Problem("give one `--clean` for each `--models`", status=USAGE)
    labels = [(label, spec) for folder, spec in zip(models, clean, strict=True) for label in read(folder)]
    labels = [(label, spec) for label, spec in labels if label.kind is Kind.CONTROL]
    work = [
        Job(
            name=label.name,
            method="inspect",
            model=str(label.model),
            clean=spec,
            arch=said.arch(arch, label),
            probes=tuple(probe or CALIBRATED),
        )
        for label, spec in labels
    ]
    made = run(work, results, workers=jobs, engine=engine, command_line=said.command(), on_result=said.tell)
    scores, nets = gather(made, [label for label, _ in labels])
    measured = by_statistic(scores)
    write(output or STATISTICS, measured, nets)
    typer.echo(f"bdscan: {len(nets)} clean nets, {len(measured)} statistics", err=True)
    for net, judgement in zip(nets, judged(scores), strict=True):
        p = "none" if judgement.p_value is None else f"{judgement.p_value:.3g}"
        typer.echo(f"{net['name']}: judged by the other nets, {judgement.verdict.word}, p = {p}")
