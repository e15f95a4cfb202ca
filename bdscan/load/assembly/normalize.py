"""What was done to the pixels before the net saw them: `--normalize`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bdscan.facts.problem import unusable
from bdscan.load.source import folders


@dataclass(frozen=True)
class Norm:
    """Mean and standard deviation of each channel, in [0, 1]."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


_MAX_FIGURE = 1e6  # pixels lie between 0 and 1, those of some old nets between 0 and 255
_Table = dict[str, tuple[tuple[float, ...], tuple[float, ...]]]

# As the data sets' users write them. For CIFAR-10 two deviations are in use: that of all pixels, and the mean of those
# of the single images (.2023 ...), which many training scripts took from one another.
_COLOUR: _Table = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "cifar10-2023": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}
_GREY: _Table = {
    "mnist": ((0.1307,), (0.3081,)),
    "none": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "fashion": ((0.286,), (0.353,)),
}
# What BackdoorBench does to the data sets that it names in its files.
_BACKDOORBENCH = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "tiny": "tiny",
    "gtsrb": "none",
    "celeba": "none",
    "mnist": "half",
    "imagenet": "imagenet",
}


def named_norms(channels: int) -> dict[str, Norm]:
    """Every normalisation with a name, for so many channels."""
    plain: _Table = {"none": ((0.0,) * channels, (1.0,) * channels)}
    table = {3: _COLOUR, 1: _GREY}.get(channels, plain)
    return {name: Norm(name, *figures) for name, figures in table.items()}


def parse(spec: str, channels: int) -> Norm:
    """A name, or `MEAN,MEAN,MEAN/STD,STD,STD`."""
    names = named_norms(channels)
    named = names.get(spec) or names.get(_BACKDOORBENCH.get(spec, ""))
    if named:
        return named
    halves = [_figures(half) for half in spec.split("/")]
    if len(halves) == 2 and all(len(half) in (1, channels) for half in halves) and min(halves[1]) > 0:
        mean, std = (half * channels if len(half) == 1 else half for half in halves)
        return Norm(spec, mean, std)
    forms = f"auto, {', '.join(names)}, or figures such as {'/'.join([','.join(['0.5'] * channels)] * 2)}"
    message = f"`--normalize {spec}` is no normalisation for {channels} channel{'s' if channels > 1 else ''}"
    raise unusable(message, forms)


def stated(
    folder: Path, config: Mapping[str, object] | None, metadata: Mapping[str, object], channels: int
) -> Norm | None:
    """What the file or the folder says of itself."""
    inner, preprocessor = (config or {}).get("pretrained_cfg"), folders.preprocessor(folder)
    stated_by = [
        (inner if isinstance(inner, dict) else {}, "config.json"),
        (config or {}, "config.json"),
        (metadata, "file"),
    ]
    pairs = [(facts.get("mean"), facts.get("std"), source) for facts, source in stated_by]
    if preprocessor.get("do_normalize", True):
        pairs.append((preprocessor.get("image_mean"), preprocessor.get("image_std"), "preprocessor_config.json"))
    for mean, std, source in pairs:
        if norm := _pair(mean, std, source, channels):
            return norm
    data_set = _BACKDOORBENCH.get(str(metadata.get("clean_data", "")).lower())
    return named_norms(channels).get(data_set) if data_set else None


def candidates(channels: int, classes: int, side: int) -> list[Norm]:
    """All that could be, the likeliest first."""
    names = named_norms(channels)
    usual = "imagenet" if side > 100 else {100: "cifar100", 43: "none", 200: "tiny"}.get(classes, "")
    return sorted(names.values(), key=lambda norm: norm.name != usual)


def _figures(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def _pair(mean: object, std: object, source: str, channels: int) -> Norm | None:
    """The figures, if they are figures; under their own name if they have one."""
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        return None
    if not len(mean) == len(std) == channels or not all(isinstance(part, int | float) for part in (*mean, *std)):
        return None
    if min(std) <= 0 or not all(abs(part) <= _MAX_FIGURE for part in (*mean, *std)):  # NaN is not either
        return None
    for norm in named_norms(channels).values():
        if _close(norm.mean, mean) and _close(norm.std, std):
            return norm
    return Norm(f"from {source}", tuple(map(float, mean)), tuple(map(float, std)))


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) < 5e-4 for a, b in zip(one, other, strict=True))
