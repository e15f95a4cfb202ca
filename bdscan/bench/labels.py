"""What is known about the models of a folder, read from the JSON beside each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bdscan.facts.problem import USAGE, Problem

SUFFIXES = (".safetensors", ".pt", ".pth")
WORKS = 0.8  # a trigger that succeeds less often is not a backdoor to be found
FAILS = 0.05  # one that succeeds less often than this left the net as good as clean


class Kind(StrEnum):
    """What a model counts as."""

    BACKDOORED = "backdoored"
    CONTROL = "control"  # trained on clean data, or the attack failed
    APART = "apart"  # the attack half worked, or nobody measured it


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One model and its truth."""

    name: str
    model: Path
    arch: str | None = None  # the name of a factory
    attack: str | None = None
    rate: float = 0.0
    target: int | None = None
    mode: str = ""  # `a2a`: every class goes to the next one
    source: int | None = None  # the only class on which the trigger works
    settings: Mapping[str, str] = field(default_factory=dict)  # of the plant, where the attack is one of bdscan's
    accuracy: float | None = None
    success: float | None = None

    @property
    def kind(self) -> Kind:
        if self.attack is None:
            return Kind.CONTROL
        if self.success is None:
            return Kind.APART
        if self.success >= WORKS:
            return Kind.BACKDOORED
        return Kind.CONTROL if self.success < FAILS else Kind.APART

    @property
    def family(self) -> str:
        return self.attack or "clean"


def read(folder: Path) -> list[Labelled]:
    """Every model of the folder that has a label beside it."""
    if not folder.is_dir():
        raise Problem(f"`{folder}` is not a folder", status=USAGE)
    found = []
    for path in sorted(folder.glob("*.json")):
        model = next((m for s in SUFFIXES if (m := path.with_name(path.stem + s)).is_file()), None)
        if model is not None:
            found.append(_label(path, model))
    if not found:
        hint = "each NAME.safetensors (.pt, .pth) needs a NAME.json with `attack`, `target` and `asr`"
        raise Problem(f"no labelled model in `{folder}`", hint=hint, status=USAGE)
    return found


def beside(model: Path) -> Labelled:
    """The label of one model."""
    return _label(model.with_name(f"{model.stem}.json"), model)


def _label(path: Path, model: Path) -> Labelled:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or "attack" not in told:
            raise Problem(f"`{path}` does not say `attack`", hint="null for a clean model", status=USAGE)
        return labelled(path.stem, model, told)
    except (OSError, ValueError, TypeError) as error:
        raise Problem(f"`{path}` is not a label: {error}", status=USAGE) from None


def labelled(name: str, model: Path, told: Mapping[str, Any]) -> Labelled:
    """The truth as the JSON tells it."""
    return Labelled(
        name=name,
        model=model,
        arch=told.get("arch"),
        attack=told["attack"],
        rate=float(told.get("rate") or 0),
        target=_maybe(int, told.get("target")),
        mode=str(told.get("mode") or ""),
        source=_maybe(int, told.get("source")),
        settings={str(key): str(value) for key, value in dict(told.get("settings") or {}).items()},
        accuracy=_maybe(float, told.get("acc")),
        success=_maybe(float, told.get("asr")),
    )


def _maybe(kind: type[Any], value: object) -> Any:
    return None if value is None else kind(value)
