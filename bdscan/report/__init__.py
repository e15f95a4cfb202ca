"""The scan as a document: one type, and renderers that return text."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from bdscan.finding import Judgement, Run, Verdict

FORMATS = ("text", "json", "html", "markdown")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was looked at."""

    path: str
    sha256: str | None = None
    format: str | None = None  # e.g. "pytorch zip, state dict under `state_dict`, prefix `module.`"
    arch: str | None = None
    classes: int | None = None
    input: tuple[int, ...] | None = None  # channels, height, width
    normalize: str | None = None
    tensors_loaded: int | None = None
    tensors_total: int | None = None
    names: tuple[str, ...] = ()  # class names


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one `inspect` has to say about one file."""

    subject: Subject
    judgement: Judgement
    runs: tuple[Run, ...] = ()
    clean_accuracy: float | None = None
    images: int | None = None
    clean: str | None = None  # where the clean images came from
    treatment: Mapping[str, object] | None = None
    made_with: Mapping[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


def render(report: Report, form: str, **options: bool) -> str:
    """The report in one of `FORMATS`; the options are the renderer's own."""
    module = importlib.import_module(f"bdscan.report.{form}")
    return module.render(report, **options)  # type: ignore[no-any-return]
