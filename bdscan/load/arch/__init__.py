"""Which net the tensors belong to: `--arch`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from torch import Tensor

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem, unusable
from bdscan.load import nets
from bdscan.load.arch import (
    from_file,
    from_module,
    from_timm,
    from_torchvision,
    from_transformers,
    heads,
    library_index,
    recorded,
)
from bdscan.load.arch.match import Difference, FilledNet, NoMatch, fit, no_match, told_apart
from bdscan.load.arch.readings import Reading, readings
from bdscan.load.module.layers import NotVouched, layer_kind
from bdscan.load.nets import families
from bdscan.load.nets.candidate import Candidate, Outline, outline_of
from bdscan.load.pickle.records import CallRecord

_LEAST_LIKE = 0.5  # of the tensors of net and file together: a small net whose whole head was replaced keeps so much
_MOST_TRIED = 12  # nets of the libraries that are built to see: some have a dozen with the same tensors

Facts = Mapping[str, object]  # what the file or the `config.json` beside it says of itself


def find(
    spec: str,
    tensors: dict[str, Tensor],
    config: Facts | None,
    metadata: Facts,
    path: str,
    module: CallRecord | None = None,
    prefix: str = "",
) -> list[FilledNet]:
    """Every net into which all tensors go; more than one where they leave something open, the commonest first.

    `module` is what the file holds besides its tensors, `prefix` what was taken off their names.
    """
    if spec == "auto":
        modules, obstacle = _of_module(module, prefix)
        if obstacle and module is not None and layer_kind(module) == "Sequential":  # it says what it is
            raise Problem(f"its pickled module cannot be read: {obstacle}", hint="save its state dict alone")
        last = bool(modules and module is not None and from_module.known_elsewhere(module))
        try:
            return _recognise(tensors, config, metadata, path, modules if not last else [], modules if last else [])
        except NoMatch as problem:
            message = f"; its pickled module cannot be read: {obstacle}" if obstacle else ""
            raise NoMatch(problem.message + message, hint=problem.hint) from None
    misfits: list[tuple[Candidate, Difference]] = []
    for reading in _readings(spec, tensors):
        candidates = map(reading.applied, _named_candidates(spec, reading.outline, config, metadata))
        fitting, failed = _try(candidates, tensors, first=".py:" in spec)
        if fitting:
            return fitting
        misfits += failed
    if not misfits:
        raise Problem(f"the tensors in `{path}` are not those of {spec}", hint="`--arch auto` says what they look like")
    candidate, difference = max(misfits, key=lambda pair: pair[1].likeness)
    message = f"the tensors in `{path}` are not those of {candidate.name}: {difference.described}"
    raise Problem(message, hint="a net is loaded whole or not at all: check the file and `--arch`")


def _readings(spec: str, tensors: dict[str, Tensor]) -> Iterator[Reading]:
    every = readings(outline_of(tensors))
    return itertools.islice(every, 1) if ".py:" in spec else every  # a user's own net has its own names


def _named_candidates(spec: str, outline: Outline, config: Facts | None, metadata: Facts) -> Iterator[Candidate]:
    kind, colon, name = spec.partition(":")
    if kind == "torchvision" and colon:
        return from_torchvision.named(name, outline)
    if kind == "timm" and colon:
        return iter([from_timm.named(name, outline)])
    if ".py:" in spec:
        return from_file.candidates(spec, outline, _stated_classes(config or {}) or _stated_classes(metadata))
    family = families.named(spec, outline)
    if family is not None:
        return nets.candidates_of(family, outline)
    message = f"`--arch {spec}` is none of the forms that bdscan knows"
    raise unusable(message, "auto, wrn-16-1 and the like, torchvision:NAME, timm:NAME or FILE.py:factory")


def _of_module(module: CallRecord | None, prefix: str) -> tuple[list[Candidate], str]:
    """The nets that it may be, and what stands in the way where it can be none."""
    try:
        return (list(from_module.candidates(module, prefix)) if module is not None else []), ""
    except NotVouched as obstacle:
        return [], str(obstacle)


def _recognise(
    tensors: dict[str, Tensor],
    config: Facts | None,
    metadata: Facts,
    path: str,
    first: list[Candidate],
    last: list[Candidate],
) -> list[FilledNet]:
    """`first` and `last`: nets that a pickled module may be, tried before those that its tensors may be or after."""
    outline = outline_of(tensors)
    if config and "architecture" in config:
        sources = iter([from_timm.from_config(config, outline)])
    elif config and "architectures" in config:
        sources = iter([from_transformers.candidates(config, tensors)])
    else:
        sources = _sources(outline, metadata)
    misfits: list[tuple[Candidate, Difference]] = []
    for source in itertools.chain([iter(first)], sources, [iter(last)]):
        fitting, failed = _try(source, tensors)
        if fitting:
            different, layers = told_apart(fitting), metadata.get("layers")  # of a pickled module
            return recorded.agreeing(different, layers, tensors, path) if isinstance(layers, dict) else different
        misfits += failed
    raise no_match(misfits, outline, path)


def _sources(outline: Outline, metadata: Facts) -> Iterator[Iterator[Candidate]]:
    """Where to look, the likeliest first: each reading of the names among our own nets, then the libraries'."""
    for reading in readings(outline):
        if not reading.cut_off:  # our own nets are read off the shapes: parts of others would often pass for them
            yield map(reading.applied, nets.candidates(reading.outline))
        yield map(reading.applied, from_timm.stated(_stated_name(metadata), reading.outline))
        for alike in _of_libraries(reading.outline):
            yield map(reading.applied, alike)


def _of_libraries(outline: Outline) -> Iterator[Iterator[Candidate]]:
    """The nets of torchvision and timm whose tensors are most like these, equals at once."""
    found = library_index.nearest(outline, _LEAST_LIKE)
    usable = (pair for pair in found if not pair[1].startswith("timm:") or from_timm.installed())
    for _, names in itertools.groupby(itertools.islice(usable, _MOST_TRIED), key=lambda pair: pair[0]):
        yield itertools.chain.from_iterable(_of_library(name, outline) for _, name in names)


def _of_library(spec: str, outline: Outline) -> list[Candidate]:
    library, _, name = spec.partition(":")
    try:
        return (
            list(from_torchvision.named(name, outline))
            if library == "torchvision"
            else [from_timm.named(name, outline)]
        )
    except Problem:  # another release of it, or none that works
        return []


def _try(
    candidates: Iterator[Candidate], tensors: dict[str, Tensor], *, first: bool = False
) -> tuple[list[FilledNet], list[tuple[Candidate, Difference]]]:
    """Those that fit (with `first`, only the first of them) and those that do not."""
    fitting: list[FilledNet] = []
    failed = []
    for candidate in candidates:
        check_time()
        result = fit(candidate, tensors)
        if isinstance(result, FilledNet):
            fitting.append(result)
        elif result and (changed := _changed(candidate, result, tensors)):
            fitting += changed
        elif result:
            failed.append((candidate, result))
        if fitting and first:
            break
    return fitting, failed


def _changed(candidate: Candidate, difference: Difference, tensors: dict[str, Tensor]) -> list[FilledNet]:
    """The same net with another head."""
    if candidate.needs_real_tensors:  # the user's own code says what the head is
        return []
    converted = candidate.convert(tensors) if candidate.convert else tensors
    results = (fit(other, tensors) for other in heads.changed(candidate, difference.net, outline_of(converted)))
    return [result for result in results if isinstance(result, FilledNet)]


def _stated_classes(facts: Facts) -> int | None:
    count = facts.get("num_classes")
    return count if isinstance(count, int) and count > 1 else None


def _stated_name(metadata: Facts) -> str | None:
    names = (metadata.get(key) for key in ("model_name", "arch", "architecture"))
    return next((name for name in names if isinstance(name, str)), None)
