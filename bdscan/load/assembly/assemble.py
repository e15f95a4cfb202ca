"""Weights, architecture, size, normalisation and classes put together into one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from bdscan.facts.problem import Problem, unusable
from bdscan.facts.progress import Progress, silent
from bdscan.images.doubts import doubts_against
from bdscan.images.image_set import ImageSet
from bdscan.images.source import Source
from bdscan.load import arch
from bdscan.load.arch.match import FilledNet, NoMatch, count_outputs
from bdscan.load.assembly import class_names, normalize
from bdscan.load.assembly.choose import Choice, Option, choose, guess
from bdscan.load.assembly.graphs import READERS
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import read
from bdscan.load.assembly.unwrap import Weights
from bdscan.load.contents import Contents
from bdscan.load.nets.candidate import Candidate
from bdscan.load.search import find as search
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.device import device_of

_MAX_SIDE = 1024  # pixels a side; a file that asks for more could eat all memory


@dataclass(frozen=True, eq=False)
class _FileContents:
    """What the file gave."""

    nets: list[FilledNet]
    loaded: int
    total: int
    metadata: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None  # stated by the file's own graph
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    wrapper: str | None = None
    prefix: str = ""
    norm: normalize.Norm | None = None  # that the images seem to have been given


def load(
    contents: Contents,
    *,
    arch: str = "auto",
    normalize: str = "auto",
    images: Source | None = None,
    classes: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Loaded:
    """From a surveyed file to a net that answers, whole or not at all.

    Finds the net, its input size, its normalisation and its classes; raises `Problem` where it cannot.
    """
    torch_device = device_of(device)
    if contents.format in READERS:
        parts = _graph(contents, arch)
    else:
        parts = _weights(
            contents, arch, lambda weights: _search(contents, weights, normalize, images, classes, progress)
        )
    shape, count = _shape(parts, contents, images)
    if count < 2:
        raise Problem(f"the net in `{contents.path}` has {count} output: bdscan judges classifiers of two and more")
    names = class_names.stated(contents.config, parts.metadata, count)
    names = class_names.read(classes, count) if classes else names
    clean = _load_clean(images, shape, names, count) if images else None
    is_stated, norms = _norms(normalize, contents, parts.metadata, shape, count)
    norms.sort(key=lambda norm: norm != parts.norm)  # stable: what the search found goes before what is usual
    options = [Option(filled, norm) for filled in parts.nets for norm in norms]
    choice = guess(options, stated=is_stated) if clean is None else choose(options, clean, torch_device)
    doubts = (*parts.doubts, *choice.doubts)
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


def _weights(contents: Contents, spec: str, infer: Callable[[Weights], search.Found | str]) -> _FileContents:
    weights = read(contents)
    _check_finite(contents.path, weights)
    found: search.Found | None = None
    try:
        nets = arch.find(spec, weights.tensors, contents.config, weights.metadata, str(contents.path))
    except NoMatch as problem:
        inferred = infer(weights)
        if isinstance(inferred, str):
            message = f"{problem.message}; {inferred}" if inferred else problem.message
            raise Problem(message, hint=problem.hint, status=problem.status) from None
        found, nets = inferred, [inferred.filled]
    count = len(weights.tensors)
    return _FileContents(
        nets,
        count,
        count,
        weights.metadata,
        shape=found.shape if found else None,
        norm=found.norm if found else None,
        notes=(f"read as {weights.described}", *(found.notes if found else ())),
        doubts=(*_other_weights(contents, weights), *(found.doubts if found else ())),
        wrapper=weights.wrapper,
        prefix=weights.prefix,
    )


def _search(
    contents: Contents,
    weights: Weights,
    spec: str,
    images: Source | None,
    classes: Path | None,
    progress: Progress,
) -> search.Found | str:
    """The net that labelled images tell; or why it cannot be told."""
    count = search.classes_of(weights.tensors)
    if images is None or count is None:
        return ""
    names = class_names.stated(contents.config, weights.metadata, count)
    names = class_names.read(classes, count) if classes else names

    def clean(shape: tuple[int, int, int]) -> ImageSet:
        return _load_clean(images, shape, names, count, limit=search.MAX_IMAGES)

    def norms(shape: tuple[int, int, int]) -> list[normalize.Norm]:
        return _norms(spec, contents, weights.metadata, shape, count)[1]

    return search.find(weights.tensors, clean, norms, images.size, count, progress)


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


def _graph(contents: Contents, spec: str) -> _FileContents:
    """The net of a file that brings its own graph."""
    if spec != "auto":
        raise unusable("a file of its kind brings its own architecture", "leave `--arch` out")
    rebuilt = READERS[contents.format](contents)
    _check_finite(contents.path, Weights(rebuilt.net.state_dict()))
    candidate = Candidate(
        name=rebuilt.name, build=lambda: rebuilt.net, sizes=rebuilt.sizes, fixed_size=rebuilt.shape is not None
    )
    return _FileContents(
        [FilledNet(rebuilt.net, candidate)],
        rebuilt.tensors_used,
        rebuilt.tensors_total,
        shape=rebuilt.shape,
        notes=rebuilt.notes,
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


def _channels(net: nn.Module) -> int | None:
    return next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), None)


def _load_clean(
    images: Source, shape: tuple[int, int, int], names: tuple[str, ...], count: int, limit: int | None = None
) -> ImageSet:
    clean = images.load(shape, names or None, limit)
    if int(clean.labels.max()) >= count:
        message = f"the clean images have {int(clean.labels.max()) + 1} classes, the net {count}"
        raise unusable(message, "they are of another data set, or the folder holds more than classes")
    return clean


def _norms(
    spec: str, contents: Contents, metadata: Mapping[str, object], shape: tuple[int, int, int], count: int
) -> tuple[bool, list[normalize.Norm]]:
    """Whether somebody states it, and all that it can be."""
    if spec != "auto":
        return True, [normalize.parse(spec, shape[0])]
    stated = normalize.stated(contents.path, contents.config, metadata, shape[0])
    return (True, [stated]) if stated else (False, normalize.candidates(shape[0], count, shape[1]))


def _full_name(candidate: Candidate) -> str:
    return f"{candidate.name}, {candidate.variant}" if candidate.variant else candidate.name
