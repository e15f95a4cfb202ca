"""Options and exit codes, nothing else."""

from __future__ import annotations

import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdscan import __version__, method
from bdscan.bench.commands import Effort
from bdscan.bench.commands import app as bench
from bdscan.finding import Verdict
from bdscan.problem import COULD_NOT_TELL, USAGE, Problem

if TYPE_CHECKING:
    from bdscan.pipeline import Options
    from bdscan.report import Report

FOUND = 1
OUR_FAULT = 4
GRAVEST_FIRST = (OUR_FAULT, FOUND, COULD_NOT_TELL, 0)


class Format(StrEnum):
    """How the report is written."""

    text = "text"
    json = "json"
    html = "html"
    markdown = "markdown"
    sarif = "sarif"
    junit = "junit"


class FailOn(StrEnum):
    """The least verdict that is a finding."""

    suspicious = "suspicious"
    backdoored = "backdoored"


class Device(StrEnum):
    """Where the net runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds backdoors in image classifiers. Nothing in a suspect file ever runs.",
    epilog="Exit status: 0 clean, 1 found, 2 wrong usage, 3 could not tell, 4 our own fault.",
)


app.add_typer(bench, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bdscan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
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
    output: Annotated[Path | None, typer.Option(help="Write the report here.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="The least verdict that exits with 1.")] = FailOn.suspicious,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
) -> None:
    """Look for a backdoor in a checkpoint."""
    from bdscan.pipeline import Options, select
    from bdscan.progress import Bar

    chosen = form or _by_suffix(output)
    if chosen is Format.html and len(models) > 1:
        raise Problem("one HTML file holds one model's report", hint="inspect them one by one", status=USAGE)
    if output is not None:
        _writable(output)
    with Bar() as bar:
        options = Options(
            clean=clean,
            arch=arch,
            normalize=normalize,
            classes=classes,
            probes=tuple(probe or ()),
            settings=_settings(set_ or []),
            effort=effort.value,
            budget=budget,
            device=device.value,
            seed=seed,
            show=bar.show,
        )
        select(options)  # wrong settings are told before anything is read
        statuses, texts = [], []
        for path in models:
            text, status, verdict = _one(path, options, chosen, fail_on, many=len(models) > 1)
            statuses.append(status)
            texts.append(text)
            bar.stop()
            if output is None and text:
                typer.echo(text)
            elif text:
                _say(f"{path}: {verdict}")
    if output is not None:
        _write(output, "\n".join(text for text in texts if text))
    raise typer.Exit(0 if exit_zero else next(code for code in GRAVEST_FIRST if code in statuses))


def _one(path: str, options: Options, form: Format, fail_on: FailOn, *, many: bool) -> tuple[str, int, str]:
    """One file's report, exit status and verdict; its failure never stops the others."""
    from bdscan.pipeline import inspect as run

    try:
        report = run(path, options)
    except Problem as problem:
        if problem.status == USAGE:
            raise
        report = _unread(path, problem)
        _say(f"{path}: {problem.message}", problem.hint)
    except Exception:  # noqa: BLE001 - a crash must never look like a finding
        _crash()
        return "", OUR_FAULT, ""
    return _render(report, form, many=many), status_of(report, fail_on), report.verdict.word


def _unread(path: str, problem: Problem) -> Report:
    from bdscan.finding import Run
    from bdscan.judge import judge
    from bdscan.report import Report, Subject

    runs = (Run(probe="load", failure=problem.message),)
    return Report(subject=Subject(path=path), judgement=judge(runs), runs=runs, made_with={"bdscan": __version__})


def _render(report: Report, form: Format, *, many: bool) -> str:
    from bdscan.report import render

    options = {Format.json: {"compact": many}, Format.text: {"colour": sys.stdout.isatty()}}
    return render(report, form.value, **options.get(form, {}))


def status_of(report: Report, fail_on: FailOn) -> int:
    """The exit status of one report."""
    least = Verdict.SUSPICIOUS if fail_on is FailOn.suspicious else Verdict.BACKDOORED
    if report.verdict >= least:
        return FOUND
    return COULD_NOT_TELL if report.verdict is Verdict.INCONCLUSIVE else 0


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Show this one's manual.")] = None) -> None:
    """List the probes and purifiers, or show one's manual."""
    if name is None:
        _list()
    else:
        _manual(name)


def _list() -> None:
    for room in method.ROOMS:
        if names := method.names(room):
            typer.echo(f"{room}:")
            for name in names:
                typer.echo(f"  {name:<16}{method.summary(room, name)}")


def _manual(name: str) -> None:
    homes = {each: room for room in method.ROOMS for each in method.names(room)}
    method.known(name, list(homes))
    typer.echo(method.manual(homes[name], name))
    if settings := method.defaults(homes[name], name):
        typer.echo("\nSettings")
        for key, default, why in settings:
            typer.echo(f"    {key:<12}{default:<10}{why}")


def _settings(given: list[str]) -> dict[str, dict[str, str]]:
    settings: dict[str, dict[str, str]] = {}
    for text in given:
        left, equals, value = text.partition("=")
        name, dot, key = left.partition(".")
        if not (equals and dot and name and key):
            raise Problem(f"`--set {text}` is not PROBE.SETTING=VALUE", status=USAGE)
        settings.setdefault(name, {})[key] = value
    return settings


_SUFFIXES = {
    ".json": Format.json,
    ".html": Format.html,
    ".htm": Format.html,
    ".md": Format.markdown,
    ".sarif": Format.sarif,
    ".xml": Format.junit,
    ".txt": Format.text,
}


def _by_suffix(output: Path | None) -> Format:
    if output is None:
        return Format.text
    name = output.name.lower().replace(".sarif.json", ".sarif")
    return _SUFFIXES.get(Path(name).suffix, Format.text)


def _writable(output: Path) -> None:
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "lies in a folder that does not exist"
        raise Problem(f"cannot write `{output}`: it {what}", status=USAGE)


def _write(output: Path, text: str) -> None:
    """Whole or not at all."""
    part = output.with_name(f".{output.name}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Problem(f"cannot write `{output}`: {error.strerror}", status=USAGE) from None
    _say(f"wrote {output}")


def _say(message: str, hint: str = "") -> None:
    typer.echo(f"bdscan: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)


def _crash() -> None:
    traceback.print_exc(file=sys.stderr)
    _say("this is our own fault; please report it with the lines above")


def main() -> None:
    """The console script: every way out has its own status."""
    try:
        app()
    except Problem as problem:
        _say(problem.message, problem.hint)
        sys.exit(problem.status)
    except KeyboardInterrupt:
        _say("stopped")
        sys.exit(COULD_NOT_TELL)
    except Exception:  # noqa: BLE001 - the last line of defence
        _crash()
        sys.exit(OUR_FAULT)
