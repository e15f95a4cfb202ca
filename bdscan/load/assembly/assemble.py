"""Weights, architecture, size, normalisation and classes put together into one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from bdscan.facts.problem import Problem, unusable
from bdscan.images.doubts import doubts_against
from bdscan.images.image_set import ImageSet
from bdscan.images.source import Source
from bdscan.load import arch
from bdscan.load.arch import from_source
from bdscan.load.arch.match import FilledNet, count_outputs
from bdscan.load.assembly import class_names, normalize
from bdscan.load.assembly.choose import Choice, Option, choose, guess
from bdscan.load.assembly.graphs import CODE_DECIDES, READERS, WITH_CODE
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import read
from bdscan.load.assembly.unwrap import Weights
from bdscan.load.contents import Contents
from bdscan.load.graph.rebuilt import square
from bdscan.load.nets.candidate import Candidate
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.device import device_of

_SURE = 0.7  # accuracy that a net with a layer too few or in another place does not reach
_MAX_SIDE = 1024  # pixels a side; a file that asks for more could eat all memory


@dataclass(frozen=True, eq=False)
class _FileContents:
    """What the file gave."""

    nets: list[FilledNet]
    loaded: int
    total: int
    metadata: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None  # stated by the file's own graph
    normalised: bool = False  # by that graph
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    wrapper: str | None = None
    prefix: str = ""


def load(
    contents: Contents,
    *,
    arch: str = "auto",
    source: str | None = None,
    normalize: str = "auto",
    images: Source | None = None,
    classes: Path | None = None,
    device: str = "auto",
) -> Loaded:
    """From a surveyed file to a net that answers, whole or not at all.

    Finds the net, its input size, its normalisation and its classes; raises `Problem` where it cannot.
    """
    torch_device = device_of(device)
    if source is not None and arch != "auto":
        raise unusable("the architecture is named twice", "leave out either `--arch` or `--source`")
    named = source is not None or arch != "auto"
    by_graph = contents.format in READERS and not (named and contents.format in WITH_CODE)
    parts = _graph(contents, named) if by_graph else _weights(contents, arch, source)
    shape, count = _shape(parts, contents, images)
    if count < 2:
        raise Problem(f"the net in `{contents.path}` has {count} output: bdscan judges classifiers of two and more")
    names = class_names.stated(contents.config, parts.metadata, count)
    names = class_names.read(classes, count) if classes else names
    clean = _load_clean(images, shape, names, count)
    is_stated, norms = _norms(normalize, contents, parts, shape, count)
    options = [Option(filled, norm) for filled in parts.nets for norm in norms]
    choice = guess(options, stated=is_stated) if clean is None else choose(options, clean, torch_device)
    doubts = (*parts.doubts, *choice.doubts, *_inferred(choice))
    if clean is not None and not names:
        doubts += doubts_against(clean, count)
        names = clean.names if len(clean.names) == count else ()
    norm = choice.option.norm
    net = Normalised(choice.option.filled.net, norm.mean, norm.std).to(torch_device)
    return _loaded(contents, parts, choice, Classifier(net, shape, count, names, doubts), clean)


def _loaded(
    contents: Contents, parts: _FileContents, choice: Choice, suspect: Classifier, clean: ImageSet | None
) -> Loaded:
    candidate = choice.option.filled.candidate
    return Loaded(
        suspect=suspect,
        clean=clean,
        format=contents.format,
        arch=_full_name(candidate),
        normalize=choice.option.norm.name,
        tensors_loaded=parts.loaded,
        tensors_total=parts.total,
        clean_accuracy=choice.accuracy,
        doubts=suspect.doubts,
        notes=(*parts.notes, *choice.notes),
        wrapper=parts.wrapper,
        prefix=parts.prefix,
        convert=candidate.convert,
    )


def _inferred(choice: Choice) -> Iterator[str]:
    """A net that nobody states must be right so often that no other could be meant."""
    if choice.option.filled.candidate.inferred and choice.accuracy is not None and choice.accuracy < _SURE:
        message = "the order of its layers was inferred, and the net so made is right about"
        yield f"{message} {choice.accuracy:.0%} of the clean images only"


def _weights(contents: Contents, spec: str, source: str | None) -> _FileContents:
    weights = read(contents)
    _check_finite(contents.path, weights)
    if source is not None:
        found = from_source.find(source, weights.tensors, str(contents.path), weights.prefix)
    else:
        facts, module = weights.metadata, weights.module
        nets = arch.find(spec, weights.tensors, contents.config, facts, str(contents.path), module, weights.prefix)
        found = from_source.Found(nets)
    count = len(weights.tensors)
    return _FileContents(
        found.nets,
        count,
        count,
        weights.metadata,
        notes=(f"read as {weights.described}", *found.notes),
        doubts=(*_other_weights(contents, weights), *([CODE_DECIDES] if contents.format in WITH_CODE else [])),
        wrapper=weights.wrapper,
        prefix=weights.prefix,
    )


def _other_weights(contents: Contents, judged: Weights) -> Iterator[str]:
    """Of the files in a model folder that other readers may prefer, those that hold something else."""
    for file, form in contents.others.items():
        try:
            other = read(replace(contents, weights=file, format=form, shards=(), others={})).tensors
        except Problem:
            yield f"`{file.name}`, which other readers may take, cannot be compared with `{contents.weights.name}`"
            continue
        tensors = judged.tensors
        if other.keys() != tensors.keys() or not all(torch.equal(other[name], tensors[name]) for name in tensors):
            yield f"`{file.name}`, which other readers may take, holds other weights than `{contents.weights.name}`"


def _graph(contents: Contents, named: bool) -> _FileContents:
    """The net of a file that brings its own graph."""
    if named:
        raise unusable("a file of its kind brings its own architecture", "leave `--arch` and `--source` out")
    rebuilt = READERS[contents.format](contents)
    _check_finite(contents.path, Weights(rebuilt.net.state_dict()))
    candidate = Candidate(
        name=rebuilt.name, build=lambda: rebuilt.net, sizes=rebuilt.sizes, fixed_size=rebuilt.shape is not None
    )
    return _FileContents(
        [FilledNet(net, replace(candidate, variant=what)) for what, net in rebuilt.variants or (("", rebuilt.net),)],
        rebuilt.tensors_used,
        rebuilt.tensors_total,
        shape=rebuilt.shape,
        notes=rebuilt.notes,
        normalised=rebuilt.normalised,
    )


def _check_finite(path: Path, weights: Weights) -> None:
    if names := weights.nonfinite:
        more = f" and {len(names) - 1} more tensors hold" if len(names) > 1 else " holds"
        raise Problem(f"`{names[0]}`{more} NaN or infinity in `{path}`: such a net answers nothing")


def _shape(parts: _FileContents, contents: Contents, images: Source | None) -> tuple[tuple[int, int, int], int]:
    """The first size that the net takes, of all that somebody states or that are usual; and its number of classes."""
    net, candidate = parts.nets[0].net, parts.nets[0].candidate
    sizes_tried = []
    for shape in dict.fromkeys(_shapes(parts, contents, images)):
        count = count_outputs(net, shape) if max(shape) <= _MAX_SIDE else None
        if count is not None:
            return shape, count
        sizes_tried.append("x".join(map(str, shape)))
    message = f"{candidate.name} takes images of none of the sizes {', '.join(sizes_tried)}"
    raise Problem(message, hint="give clean images of the size it takes: `--clean DATA`")


def _shapes(parts: _FileContents, contents: Contents, images: Source | None) -> Iterator[tuple[int, int, int]]:
    candidate = parts.nets[0].candidate
    if parts.shape:
        yield parts.shape
        return
    size = images.size if images else None
    row = _row(parts.nets[0].net)
    if row is not None:
        yield row
    channels = _channels(parts.nets[0].net) or (size[0] if size else 3)
    if not candidate.fixed_size:
        for facts in (contents.config or {}, parts.metadata):
            for side in _sides(facts):
                yield (channels, *side)
        if size and max(size[1:]) <= max(128, candidate.sizes[0]):  # larger ones are photographs, to be scaled down
            yield (channels, *size[1:])
    for usual in candidate.sizes:
        yield channels, usual, usual


def _sides(facts: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """Height and width as a file or a `config.json` states them, the channels first, last or left out."""
    inner = facts.get("pretrained_cfg")
    for table in (inner if isinstance(inner, dict) else {}, facts):
        for key in ("input_size", "img_size", "image_size"):
            value = table.get(key)
            sides = [value] * 2 if isinstance(value, int) else value
            if isinstance(sides, list | tuple) and all(isinstance(side, int) for side in sides):
                kept = [side for side in sides if 8 <= side <= _MAX_SIDE]  # channels are 1 or 3
                if len(kept) == 2:
                    yield kept[0], kept[1]


def _row(net: nn.Module) -> tuple[int, int, int] | None:
    """The square image whose numbers a net without convolutions takes in one row."""
    if _channels(net) is not None:
        return None
    linear = next((module for module in net.modules() if isinstance(module, nn.Linear)), None)
    return square(linear.in_features) if linear is not None else None


def _channels(net: nn.Module) -> int | None:
    return next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), None)


def _load_clean(
    images: Source | None, shape: tuple[int, int, int], names: tuple[str, ...], count: int
) -> ImageSet | None:
    if images is None:
        return None
    clean = images.load(shape, names or None)
    if int(clean.labels.max()) >= count:
        message = f"the clean images have {int(clean.labels.max()) + 1} classes, the net {count}"
        raise unusable(message, "they are of another data set, or the folder holds more than classes")
    return clean


def _norms(
    spec: str, contents: Contents, parts: _FileContents, shape: tuple[int, int, int], count: int
) -> tuple[bool, list[normalize.Norm]]:
    """Whether somebody states it, and all that it can be."""
    if parts.normalised and spec == "auto":
        spec = "none"
    if spec != "auto":
        return True, [normalize.parse(spec, shape[0])]
    stated = normalize.stated(contents.path, contents.config, parts.metadata, shape[0])
    return (True, [stated]) if stated else (False, normalize.candidates(shape[0], count, shape[1]))


def _full_name(candidate: Candidate) -> str:
    return f"{candidate.name}, {candidate.variant}" if candidate.variant else candidate.name
