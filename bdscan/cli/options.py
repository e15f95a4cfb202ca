"""The options that several commands have, in one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bdscan.cli.choices import FailOn as _FailOn
from bdscan.cli.choices import Format as _Format

_CLEAN = typer.Option(help="Images you trust: a folder, .npz, .tar or cifar10:ROOT.")

Clean = Annotated[str, _CLEAN]
CleanIfAny = Annotated[str | None, _CLEAN]
Arch = Annotated[str, typer.Option(help="auto, wrn-16-1 and the like, torchvision:NAME, timm:NAME or FILE.py:factory.")]
Source = Annotated[
    str | None, typer.Option(metavar="FILE.py[:NAME]|DIR", help="The net's own source: read as text, never run.")
]
Normalize = Annotated[str, typer.Option(help="auto, imagenet, cifar10, none or MEAN/STD.")]
Size = Annotated[str | None, typer.Option(metavar="N", help="Side of the images it takes, or HxW, in pixels.")]
Classes = Annotated[Path | None, typer.Option(help="Class names in the model's order.")]
MethodSettings = Annotated[list[str] | None, typer.Option("--set", metavar="METHOD.SETTING=VALUE")]
Preset = Annotated[str | None, typer.Option(metavar="NAME", help="The method's own: `paper`, as it was published.")]
Reports = Annotated[list[Path] | None, typer.Option("--report", help="Write the report here (repeatable).")]
ReportFormat = Annotated[_Format | None, typer.Option("--format", help="By default text, or by the report's suffix.")]
Sbom = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a CycloneDX bill of materials too.")]
Attest = Annotated[Path | None, typer.Option(metavar="FILE", help="Write an in-toto statement too.")]
FailOn = Annotated[_FailOn, typer.Option(help="The least verdict that exits with 1.")]
