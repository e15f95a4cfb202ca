"""The scan as a document: one type, and renderers that return text."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from bdscan.facts.finding import Judgement, Run, Verdict
from bdscan.facts.problem import USAGE, Problem
from bdscan.facts.training_record import ContactSheet, TrainingRecord
from bdscan.facts.treatment import Treatment

FORMATS = ("text", "json", "html", "markdown", "sarif", "junit")


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
class Acceptance:
    """Somebody's decision to let a finding pass, for a while."""

    sha256: str
    reason: str
    expires: date  # the last day on which it holds


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file or folder beside the model that a verdict depends on."""

    role: str  # clean, classes, policy, ...
    path: str
    digest: Mapping[str, str]  # in-toto's names: `sha256` of a file, `dirHash` of a folder; empty where none was taken


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one `inspect`, `purify` or `train` has to say about one file."""

    subject: Subject
    judgement: Judgement  # after a treatment: of the treated model, like `runs`
    runs: tuple[Run, ...] = ()
    before: tuple[Run, ...] = ()  # what the same probes found before the treatment
    clean_accuracy: float | None = None
    images: int | None = None
    clean: str | None = None  # where the clean images came from
    treatment: Treatment | None = None
    training: TrainingRecord | None = None  # of a model trained here
    sheet: ContactSheet | None = field(default=None, compare=False)  # pictures of it, which only HTML shows
    made_with: Mapping[str, object] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()  # what was read beside the model
    accepted: Acceptance | None = None  # what was found is known and let pass
    baseline: Literal["new", "unchanged"] | None = None  # whether what was found is known; None without a baseline
    refused: tuple[str, ...] = ()  # what a policy asks for and the model does not give: a finding
    unmet: tuple[str, ...] = ()  # what a policy asks for and nobody could tell

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict

    def found(self, least: Verdict) -> bool:
        """Whether it blocks: a verdict of at least this, or a refusal by policy; unless accepted or known."""
        if self.accepted is not None or self.baseline == "unchanged":
            return False
        return self.verdict >= least or bool(self.refused)

    @property
    def undecided(self) -> bool:
        """Whether something could not be told that had to be; an acceptance does not change that."""
        return self.verdict is Verdict.INCONCLUSIVE or bool(self.unmet)


def render(report: Report, form: str, **options: object) -> str:
    """The report in one of `FORMATS`; the options are the renderer's own."""
    return render_all((report,), form, **options)


def render_all(reports: Sequence[Report], form: str, **options: object) -> str:
    """All reports as one text: one object a line in JSON, one document in SARIF and JUnit."""
    module = importlib.import_module(f"bdscan.report.{form}")
    if hasattr(module, "render_all"):
        return module.render_all(reports, **options)  # type: ignore[no-any-return]
    if form == "html" and len(reports) != 1:
        raise Problem("one HTML file holds one model's report", hint="inspect them one by one", status=USAGE)
    if form == "json" and len(reports) > 1:
        options = {"compact": True} | options
    return "\n".join(module.render(report, **options) for report in reports)
