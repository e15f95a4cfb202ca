"""Options and exit codes, nothing else."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bdscan import __version__
from bdscan.cli.console import say, say_crash
from bdscan.cli.exit_status import FOUND, OUR_FAULT
from bdscan.cli.inspect import inspect
from bdscan.cli.methods import methods
from bdscan.cli.purify import purify
from bdscan.cli.train import train
from bdscan.facts.problem import COULD_NOT_TELL, Problem

__all__ = ["FOUND", "OUR_FAULT", "app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds backdoors in image classifiers and removes them. Nothing in a suspect file ever runs.",
    epilog="Exit status: 0 clean or cleaned, 1 found, 2 wrong usage, 3 could not tell, 4 our own fault.",
)
app.command()(inspect)
app.command()(purify)
app.command()(train)
app.command()(methods)


class _Bench(TyperGroup):
    """The bench's commands, imported when one of them is wanted: `bdscan --help` need not wait for them."""

    def list_commands(self, ctx: Any) -> list[str]:
        commands: list[str] = _bench().list_commands(ctx)
        return commands

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _bench().get_command(ctx, cmd_name)


def _bench() -> Any:
    from bdscan.bench.commands import app

    return typer.main.get_command(app)


_BENCH = typer.Typer(
    cls=_Bench,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measures bdscan on models whose truth is known.",
)


@_BENCH.callback()
def _bench_root() -> None:
    pass


app.add_typer(_BENCH, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bdscan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script: every way out has its own status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a pipeline that is cancelled is like Ctrl-C
    try:
        app()
    except Problem as problem:
        say(problem.message, problem.hint)
        sys.exit(problem.status)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(COULD_NOT_TELL)
    except Exception:  # noqa: BLE001 - the last line of defence
        say_crash()
        sys.exit(OUR_FAULT)
