"""`bdscan methods`: what there is, and each one's manual."""

from __future__ import annotations

from typing import Annotated

import typer

from bdscan import method


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
                typer.echo(f"  {name:<17}{method.summary(room, name)}")


def _manual(name: str) -> None:
    homes = {each: room for room in method.ROOMS for each in method.names(room)}
    method.known(name, list(homes))
    typer.echo(method.manual(homes[name], name))
    if settings := method.defaults(homes[name], name):
        typer.echo("\nSettings")
        for key, default, why in settings:
            typer.echo(f"    {key:<12}{default:<10}{why}")
