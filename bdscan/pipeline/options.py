"""What a user may ask of each verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bdscan.facts.effort import Effort

if TYPE_CHECKING:
    from bdscan.report import Report

AUTO = "auto"

Show = Callable[[str, int, int, str], None]  # probe, done, total, what is being tried
# Told what a file by itself shows, before anything of it is loaded: whatever comes of that.
Examined = Callable[["Report"], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked for."""

    clean: str | None = None
    arch: str = "auto"
    source: str | None = None  # of the net, to be read and not run
    normalize: str = "auto"
    size: str | None = None  # of the images the net takes, as in 96 or 96x128; None: what the file or the images tell
    classes: Path | None = None
    probes: tuple[str, ...] = ()  # none named: all that the effort covers
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    preset: str | None = None  # of the method; `settings` go over it
    effort: Effort = "standard"
    budget: float | None = None  # seconds for one model
    device: str = "auto"
    seed: int = 0
    show: Show = lambda probe, done, total, what: None
    examined: Examined = lambda report: None
    tell: Callable[[str], None] = lambda message: None  # what is to be known before the work

    @property
    def settled(self) -> Mapping[str, object]:
        """What was asked for, without who is told of it."""
        return {name: value for name, value in vars(self).items() if name not in ("show", "examined", "tell")}


@dataclass(frozen=True, kw_only=True)
class PurifyOptions(Options):
    """What the user asked for, and by which method."""

    method: str = AUTO
    output: Path
    onnx: Path | None = None
    trigger: str | None = None  # the user's own, to be measured and nothing else
    target: int | None = None  # of that trigger
    precaution: bool = False  # it is wanted whether or not there is anything to remove


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """What the user asked for. `clean` are images that somebody does vouch for, to check the result by."""

    method: str = "abl"
    output: Path
    suspects: Path | None = None  # a table of all images, the suspicious first
    augment: str = "auto"  # auto, none, shift or flip
    side: int | None = None  # of the images the net takes; None: the images' own
    resume: bool = False
