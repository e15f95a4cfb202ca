"""The label of a model, read from the JSON beside it: which backdoor it holds, if any, and how well that works."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bdscan.facts.problem import USAGE, Problem

SUFFIXES = (".safetensors", ".pt", ".pth")
MIN_BACKDOOR_ASR = 0.8  # a trigger that succeeds less often is not a backdoor to be found
ALL_TO_ALL = "a2a"  # the `mode` in which every class goes to the next one
MAX_CONTROL_ASR = 0.05  # one that succeeds less often than this left the net as good as clean


class ModelKind(StrEnum):
    """What a model counts as."""

    BACKDOORED = "backdoored"
    CONTROL = "control"  # trained on clean data, or the attack failed
    APART = "apart"  # the attack half worked, or nobody measured it


@dataclass(frozen=True, kw_only=True)
class ModelLabel:
    """A model, and what it is known to hold."""

    name: str
    model: Path
    arch: str | None = None  # the name of a factory
    attack: str | None = None
    rate: float = 0.0
    target: int | None = None
    mode: str = ""
    source: int | None = None  # the only class on which the trigger works
    settings: Mapping[str, str] = field(default_factory=dict)  # of the plant, where the attack is one of bdscan's
    accuracy: float | None = None
    success: float | None = None

    @property
    def kind(self) -> ModelKind:
        if self.attack is None:
            return ModelKind.CONTROL
        if self.success is None:
            return ModelKind.APART
        if self.success >= MIN_BACKDOOR_ASR:
            return ModelKind.BACKDOORED
        return ModelKind.CONTROL if self.success < MAX_CONTROL_ASR else ModelKind.APART

    @property
    def family(self) -> str:
        return self.attack or "clean"


def read_labels(folder: Path) -> list[ModelLabel]:
    """Every model of the folder that has a label beside it."""
    if not folder.is_dir():
        raise Problem(f"`{folder}` is not a folder", status=USAGE)
    labels = []
    for path in sorted(folder.glob("*.json")):
        model = next((m for s in SUFFIXES if (m := path.with_name(path.stem + s)).is_file()), None)
        if model is not None:
            labels.append(_read(path, model))
    if not labels:
        hint = "each NAME.safetensors (.pt, .pth) needs a NAME.json with `attack`, `target` and `asr`"
        raise Problem(f"no labelled model in `{folder}`", hint=hint, status=USAGE)
    return labels


def distinct_names(labels: Sequence[ModelLabel]) -> list[str]:
    """The models' names, each with its folder's where another has it too."""
    counts = Counter(label.name for label in labels)
    return [each.name if counts[each.name] == 1 else f"{each.model.parent.name}-{each.name}" for each in labels]


def read_label(model: Path) -> ModelLabel:
    """The label of one model."""
    return _read(label_path(model), model)


def label_path(model: Path) -> Path:
    return model.with_name(f"{model.stem}.json")


def learned_path(model: Path) -> Path:
    """What its trigger learned, where that is more than settings."""
    return model.with_name(f"{model.stem}.plant.npz")


def trigger_path(model: Path) -> Path:
    """Its trigger as `--trigger` takes it, where it is one mask and one pattern."""
    return model.with_name(f"{model.stem}.trigger.npz")


def _read(path: Path, model: Path) -> ModelLabel:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or "attack" not in value:
            raise Problem(f"`{path}` does not say `attack`", hint="null for a clean model", status=USAGE)
        return label_from_json(path.stem, model, value)
    except (OSError, ValueError, TypeError) as error:
        raise Problem(f"`{path}` is not a label: {error}", status=USAGE) from None


def label_from_json(name: str, model: Path, value: Mapping[str, Any]) -> ModelLabel:
    """A label from the JSON that stands beside a model."""
    return ModelLabel(
        name=name,
        model=model,
        arch=value.get("arch"),
        attack=value["attack"],
        rate=float(value.get("rate") or 0),
        target=_maybe(int, value.get("target")),
        mode=str(value.get("mode") or ""),
        source=_maybe(int, value.get("source")),
        settings={str(key): str(value) for key, value in dict(value.get("settings") or {}).items()},
        accuracy=_maybe(float, value.get("acc")),
        success=_maybe(float, value.get("asr")),
    )


def label_json(label: ModelLabel) -> Mapping[str, object]:
    """The same JSON again."""
    kept = {key: getattr(label, key) for key in ("arch", "attack", "rate", "target", "mode", "source")}
    return {**kept, "settings": dict(label.settings), "acc": label.accuracy, "asr": label.success}


def label_figures(label: ModelLabel) -> Mapping[str, object]:
    """For programs: what it says, and what the model counts as."""
    return {**vars(label), "model": str(label.model), "kind": label.kind.value}


def _maybe(type_: type[Any], value: object) -> Any:
    return None if value is None else type_(value)
