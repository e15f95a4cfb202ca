"""Which net the tensors belong to: `--arch`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem, unusable
from bdscan.load import nets
from bdscan.load.arch import from_file, from_module, from_timm, from_torchvision, from_transformers
from bdscan.load.arch.match import Difference, FilledNet, fit, no_match
from bdscan.load.module.layers import NotVouched
from bdscan.load.nets import families
from bdscan.load.nets.candidate import Candidate, outline_of
from bdscan.load.pickle.records import CallRecord

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
        last = bool(modules and module is not None and from_module.known_elsewhere(module))
        try:
            return _recognise(tensors, config, metadata, path, modules if not last else [], modules if last else [])
        except Problem as problem:
            message = f"{problem.message}; as a pickled module it cannot be read: {obstacle}" if obstacle else ""
            raise Problem(message or problem.message, hint=problem.hint, status=problem.status) from None
    candidates = _named_candidates(spec, tensors, config, metadata)
    fitting, misfits = _try(candidates, tensors, first=spec.partition(":")[0] not in ("torchvision", "timm"))
    if fitting:
        return fitting
    if not misfits:
        raise Problem(f"the tensors in `{path}` are not those of {spec}", hint="`--arch auto` says what they look like")
    candidate, difference = min(misfits, key=lambda pair: len(pair[1]))
    message = f"the tensors in `{path}` are not those of {candidate.name}: {difference.described}"
    raise Problem(message, hint="a net is loaded whole or not at all: check the file and `--arch`")


def _named_candidates(
    spec: str, tensors: dict[str, Tensor], config: Facts | None, metadata: Facts
) -> Iterator[Candidate]:
    outline = outline_of(tensors)
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
        sources = [from_timm.from_config(config, outline)]
    elif config and "architectures" in config:
        sources = [from_transformers.candidates(config, tensors)]
    else:
        sources = [
            nets.candidates(outline),
            from_torchvision.candidates(outline),
            from_timm.candidates(outline, _stated_name(metadata)),
            iter(last),
            from_torchvision.near(outline),
        ]
    misfits: list[tuple[Candidate, Difference]] = []
    for source in (iter(first), *sources):
        fitting, failed = _try(source, tensors)
        if fitting:
            return fitting
        misfits += failed
    raise no_match(misfits, outline, path)


def _try(
    candidates: Iterator[Candidate], tensors: dict[str, Tensor], *, first: bool = False
) -> tuple[list[FilledNet], list[tuple[Candidate, Difference]]]:
    """Those that fit (with `first`, only the first of them) and those that do not."""
    fitting: list[FilledNet] = []
    failed = []
    for candidate in candidates:
        check_time()
        result = fit(candidate, tensors)
        if isinstance(result, Difference):
            failed.append((candidate, result))
        elif result:
            fitting.append(result)
        if fitting and first:
            break
    return fitting, failed


def _stated_classes(facts: Facts) -> int | None:
    count = facts.get("num_classes")
    return count if isinstance(count, int) and count > 1 else None


def _stated_name(metadata: Facts) -> str | None:
    names = (metadata.get(key) for key in ("model_name", "arch", "architecture"))
    return next((name for name in names if isinstance(name, str)), None)
