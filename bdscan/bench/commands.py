"""Options of `bdscan bench`, nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from bdscan.bench.output import RESULTS, arch_of, check_writable, conclude, print_tables, run_jobs, write_text
from bdscan.bench.plant.run_plant import plant
from bdscan.bench.purify.run_purify import purify
from bdscan.bench.train.run_train import train
from bdscan.facts.effort import Effort
from bdscan.facts.problem import USAGE, Problem
from bdscan.net.device import Device

MAX_NAMES = 5  # of models that are left out; more make no better sentence

app = typer.Typer(rich_markup_mode=None)  # what `--help` says of all of them stands in `bdscan.cli`


@app.command()
def detect(
    models: Annotated[Path, typer.Option(metavar="DIR", help="NAME.safetensors (.pt, .pth) beside NAME.json.")],
    clean: Annotated[str | None, typer.Option(help="Images you trust: a folder, .npz, .tar or cifar10:ROOT.")] = None,
    arch: Annotated[str, typer.Option(help="auto, or the FILE.py that holds the factories the labels name.")] = "auto",
    normalize: Annotated[str, typer.Option(help="auto, imagenet, cifar10, none or MEAN/STD.")] = "auto",
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe (repeatable).")] = None,
    effort: Annotated[Effort, typer.Option(help="How long to look.")] = "standard",
    budget: Annotated[float | None, typer.Option(help="Seconds a model may take.")] = None,
    device: Annotated[Device, typer.Option(help="Where the nets run.")] = Device.auto,
    seed: Annotated[int, typer.Option(help="Same seed, same figures.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    baseline: Annotated[Literal["cleanse"] | None, typer.Option(help="Run this published method too.")] = None,
    baseline_steps: Annotated[int, typer.Option(min=1, help="Steps it takes for each class.")] = 1000,
    results: Annotated[Path, typer.Option(help="A small file a model; what is there is not done again.")] = RESULTS,
    output: Annotated[Path | None, typer.Option(help="Write the figures here: .json or .md.")] = None,
) -> None:
    """Inspect labelled models and print AUC, detection and false alarms."""
    from bdscan.bench.detect import detect_table
    from bdscan.bench.detect.accuracy import detect_row
    from bdscan.bench.labels import read_labels
    from bdscan.bench.workers.job import Job

    check_writable(output)
    labels = {label.name: label for label in read_labels(models)}
    work = [
        Job(
            name=label.name,
            method="inspect",
            model=str(label.model),
            clean=clean,
            arch=arch_of(arch, label),
            normalize=normalize,
            probes=tuple(probe or ()),
            effort=effort,
            budget=budget,
            device=device.value,
            seed=seed,
        )
        for label in labels.values()
    ]
    if baseline:  # its steps are no reason to inspect again
        work += [replace(job, method=baseline, steps=baseline_steps) for job in work]
    finished = run_jobs(work, results, jobs, engine)
    rows = [detect_row(labels[result.job.name], result) for result in finished]
    conclude(finished, detect_table.grids(rows), partial(detect_table.figures, rows), output)


app.command()(plant)
app.command()(purify)


@app.command()
def table(
    paths: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders or files of results and labels.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(help="Write them here (repeatable): .md, .html, .csv; .json: the results, in one file."),
    ] = None,
) -> None:
    """Make tables from the small files that the other commands left, and from nothing else."""
    from bdscan.bench.tables import bench_tables
    from bdscan.bench.tables.grid import html, long_csv, markdown
    from bdscan.bench.tables.result_files import compact_json, gather

    writers = {".md": markdown, ".html": html, ".csv": long_csv}
    for path in output or []:
        check_writable(path, (*writers, ".json"))
    results = gather(paths)
    if results.unlabelled:
        names = ", ".join(results.unlabelled[:MAX_NAMES]) + (" ..." if len(results.unlabelled) > MAX_NAMES else "")
        typer.echo(f"bdscan: left out, since nothing says what they are: {names}", err=True)
        typer.echo("hint: give the folder of the models too, it holds their labels", err=True)
    grids = bench_tables.grids(results)
    if not output:
        print_tables(grids, width=250)
    for path in output or []:
        text = compact_json(results) if path.suffix == ".json" else writers[path.suffix](grids)
        write_text(path, text)


app.command()(train)


@app.command()
def reference(
    models: Annotated[list[Path], typer.Option(metavar="DIR", help="Labelled models; the clean ones count.")],
    clean: Annotated[list[str], typer.Option(help="Images you trust, one set for each DIR.")],
    arch: Annotated[str, typer.Option(help="auto, or the FILE.py that holds the factories the labels name.")] = "auto",
    probe: Annotated[list[str] | None, typer.Option(help="Only this probe; the others' statistics stay.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, a process each.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, ray (here) or ray:ADDRESS (a cluster).")] = "processes",
    results: Annotated[Path, typer.Option(help="A small file a model; what is there is not done again.")] = RESULTS,
    output: Annotated[Path | None, typer.Option(help="Write the statistics here, not into the package.")] = None,
) -> None:
    """Measure how clean nets score, for the p-values of all later inspections."""
    from bdscan.bench.detect.calibrate import by_statistic, calibrated_probes, clean_nets, judge_by_others, write
    from bdscan.bench.labels import ModelKind, distinct_names, read_labels
    from bdscan.bench.workers.job import Job
    from bdscan.verdict.calibration import STATISTICS

    if len(models) != len(clean):
        raise Problem("give one `--clean` for each `--models`", status=USAGE)
    labels = [(label, images) for folder, images in zip(models, clean, strict=True) for label in read_labels(folder)]
    labels = [(label, images) for label, images in labels if label.kind is ModelKind.CONTROL]
    work = [
        Job(
            name=name,
            method="inspect",
            model=str(label.model),
            clean=images,
            arch=arch_of(arch, label),
            probes=tuple(probe or calibrated_probes()),
        )
        for name, (label, images) in zip(distinct_names([label for label, _ in labels]), labels, strict=True)
    ]
    nets = clean_nets(run_jobs(work, results, jobs, engine), [label for label, _ in labels])
    scores = by_statistic([net.scores for net in nets])
    write(output or STATISTICS, scores, nets)
    typer.echo(f"bdscan: {len(nets)} clean nets, {len(scores)} statistics", err=True)
    for net, judgement in zip(nets, judge_by_others([net.scores for net in nets]), strict=True):
        p = "none" if judgement.p_value is None else f"{judgement.p_value:.3g}"
        typer.echo(f"{net.name}: judged by the other nets, {judgement.verdict.word}, p = {p}")
