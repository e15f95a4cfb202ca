"""`bdscan methods`: what there is, and each one's manual."""

from __future__ import annotations

from typing import Annotated

import typer

from bdscan.method import registry


def methods(name: Annotated[str | None, typer.Argument(help="Show this one's manual.")] = None) -> None:
    """List the probes and purifiers, or show one's manual."""
    if name is None:
        for room in registry.ROOMS:
            if names := registry.names(room):
                typer.echo(f"{room}:")
                for each in names:
                    typer.echo(f"  {each:<17}{registry.summary(room, each)}")
        return
    homes = {each: room for room in registry.ROOMS for each in registry.names(room)}
    registry.check_name(name, list(homes))
    typer.echo(registry.manual(homes[name], name))
    if settings := registry.described(homes[name], name):
        typer.echo("\nSettings")
        for setting in settings:
            values = f" ({' | '.join(setting.values)})" if setting.values else ""
            typer.echo(f"    {setting.name:<12}{setting.default:<13}{setting.why}{values}")
    for preset, chosen in registry.presets(homes[name], name).items():
        typer.echo(f"\nPreset `{preset}`\n    {' '.join(f'{key}={value}' for key, value in chosen.items())}")
