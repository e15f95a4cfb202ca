"""Weights, architecture, size, normalisation and classes put together into one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from bdscan.facts.problem import Problem, unusable
from bdscan.facts.progress import Progress, silent
from bdscan.images.doubts import doubts_against
from bdscan.images.image_set import ImageSet
from bdscan.images.source import Source
from bdscan.load import arch
from bdscan.load.arch import from_source
from bdscan.load.arch.match import FilledNet, NoMatch
from bdscan.load.assembly import class_names, normalize, sizes
from bdscan.load.assembly.choose import Choice, Option, choose, guess
from bdscan.load.assembly.graphs import CODE_DECIDES, READERS
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import read
from bdscan.load.assembly.unwrap import Weights
from bdscan.load.contents import WITH_CODE, Contents
from bdscan.load.nets.candidate import Candidate
from bdscan.load.search import find as search
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.device import device_of

_SURE = 0.7  # accuracy that a net with a layer too few or in another place does not reach


@dataclass(frozen=True, eq=False)
class _FileContents:
    """What the file gave."""

    nets: list[FilledNet]
    loaded: int = 0
    total: int = 0
    metadata: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None  # stated by the file's own graph
    normalised: bool = False  # by that graph
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    wrapper: str | None = None
    prefix: str = ""
    norm: normalize.Norm | None = None  # that the images seem to have been given


def load(
    contents: Contents,
    *,
    arch: str = "auto",
    source: str | None = None,
    normalize: str = "auto",
    images: Source | None = None,
    classes: Path | None = None,
    device: str = "auto",
    size: str | None = None,
    progress: Progress = silent,
) -> Loaded:
    """From a surveyed file to a net that answers, whole or not at all.

    Finds the net, its input size, its normalisation and its classes; raises `Problem` where it cannot.
    """
    torch_device = device_of(device)
    if source is not None and arch != "auto":
        raise unusable("the architecture is named twice", "leave out either `--arch` or `--source`")
    named = source is not None or arch != "auto"
    by_graph = contents.format in READERS and not (named and contents.format in WITH_CODE)
    given = sizes.parse(size)
    infer = partial(_inferred, contents, normalize, images, classes, given, progress)
    parts = _graph(contents, named) if by_graph else _weights(contents, arch, source, infer)
    facts = (contents.config or {}, parts.metadata)
    found = sizes.possible(parts.nets[0], parts.shape, facts, images, given)
    count = found.classes
    if count < 2:
        raise Problem(f"the net in `{contents.path}` has {count} output: bdscan judges classifiers of two and more")
    names = _names(contents, parts.metadata, classes, count)
    spec = "none" if parts.normalised and normalize == "auto" else normalize
    norms_at = partial(_norms, spec, contents, parts.metadata, count)
    load_clean = partial(_load_clean, images, names, count)
    settled = sizes.settled(found, parts.nets[0], load_clean, norms_at, torch_device)
    shape, clean = settled.shape, load_clean(settled.shape) if images else None
    is_stated, norms = norms_at(shape)
    norms.sort(key=lambda norm: norm != parts.norm)  # stable: what the search found goes before what is usual
    options = [Option(filled, norm) for filled in parts.nets for norm in norms]
    choice = guess(options, stated=is_stated) if clean is None else choose(options, clean, torch_device)
    parts = replace(parts, notes=(*parts.notes, *settled.notes))
    doubts = (*parts.doubts, *settled.doubts, *choice.doubts, *_unsure(choice))
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
        inferred=parts.norm is not None,
        wrapper=parts.wrapper,
        prefix=parts.prefix,
        convert=candidate.convert,
    )


def _unsure(choice: Choice) -> Iterator[str]:
    """A net that nobody states must be right so often that no other could be meant."""
    if choice.option.filled.candidate.inferred and choice.accuracy is not None and choice.accuracy < _SURE:
        message = "the order of its layers was inferred, and the net so made is right about"
        yield f"{message} {choice.accuracy:.0%} of the clean images only"


def _weights(
    contents: Contents, spec: str, source: str | None, infer: Callable[[Weights], search.Found | str]
) -> _FileContents:
    weights = read(contents)
    _check_finite(contents.path, weights)
    if source is not None:
        stated = from_source.find(source, weights.tensors, str(contents.path), weights.prefix)
        parts = _FileContents(stated.nets, notes=stated.notes)
    else:
        parts = _recognised(contents, spec, weights, infer)
    code = [CODE_DECIDES] if contents.format in WITH_CODE else []
    return replace(
        parts,
        loaded=len(weights.tensors),
        total=len(weights.tensors),
        metadata=weights.metadata,
        notes=(f"read as {weights.described}", *parts.notes),
        doubts=(*_other_weights(contents, weights), *code, *parts.doubts),
        wrapper=weights.wrapper,
        prefix=weights.prefix,
    )


def _recognised(
    contents: Contents, spec: str, weights: Weights, infer: Callable[[Weights], search.Found | str]
) -> _FileContents:
    """The nets that have such tensors; where none is known, the one that the images tell."""
    facts, path = weights.metadata, str(contents.path)
    try:
        nets = arch.find(spec, weights.tensors, contents.config, facts, path, weights.module, weights.prefix)
    except NoMatch as problem:
        found = infer(weights)
        if isinstance(found, str):
            message = f"{problem.message}; {found}" if found else problem.message
            raise Problem(message, hint=problem.hint, status=problem.status) from None
        return _FileContents([found.filled], shape=found.shape, norm=found.norm, notes=found.notes, doubts=found.doubts)
    return _FileContents(nets)


def _inferred(
    contents: Contents,
    spec: str,
    images: Source | None,
    classes: Path | None,
    size: sizes.Sides | None,
    progress: Progress,
    weights: Weights,
) -> search.Found | str:
    """The net that labelled images tell; or why it cannot be told."""
    count = search.classes_of(weights.tensors)
    if images is None or count is None:
        return ""
    names = _names(contents, weights.metadata, classes, count)
    clean = partial(_load_clean, images, names, count, limit=search.MAX_IMAGES)
    norms = partial(_norms, spec, contents, weights.metadata, count)
    own = (images.size[0] if images.size else 3, *size) if size else images.size
    return search.find(weights.tensors, clean, lambda shape: norms(shape)[1], own, count, progress)


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
    rebuilt = READERS[contents.format](contents.weights)
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


def _names(contents: Contents, metadata: Mapping[str, object], classes: Path | None, count: int) -> tuple[str, ...]:
    """Of the classes, as the user gives them, else as the file does."""
    return class_names.read(classes, count) if classes else class_names.stated(contents.config, metadata, count)


def _load_clean(
    images: Source | None, names: tuple[str, ...], count: int, shape: sizes.Shape, limit: int | None = None
) -> ImageSet:
    assert images is not None
    clean = images.load(shape, names or None, limit)
    if int(clean.labels.max()) >= count:
        message = f"the clean images have {int(clean.labels.max()) + 1} classes, the net {count}"
        raise unusable(message, "they are of another data set, or the folder holds more than classes")
    return clean


def _norms(
    spec: str, contents: Contents, metadata: Mapping[str, object], count: int, shape: sizes.Shape
) -> tuple[bool, list[normalize.Norm]]:
    """Whether somebody states it, and all that it can be."""
    if spec != "auto":
        return True, [normalize.parse(spec, shape[0])]
    stated = normalize.stated(contents.path, contents.config, metadata, shape[0])
    return (True, [stated]) if stated else (False, normalize.candidates(shape[0], count, shape[1]))


def _full_name(candidate: Candidate) -> str:
    return f"{candidate.name}, {candidate.variant}" if candidate.variant else candidate.name
