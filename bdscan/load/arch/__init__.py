"""Which net the tensors belong to: `--arch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from bdscan.facts.problem import USAGE, Problem
from bdscan.load import nets
from bdscan.load.arch import from_file, from_timm, from_torchvision, from_transformers
from bdscan.load.arch.match import Difference, Found, fit, nearest
from bdscan.load.nets import families
from bdscan.load.nets.candidate import Candidate, outline_of

Facts = Mapping[str, object]  # what the file or the `config.json` beside it says of itself


def find(spec: str, tensors: dict[str, Tensor], config: Facts | None, extra: Facts, path: str) -> list[Found]:
    """Every net into which all tensors go; more than one where they leave something open, the commonest first."""
    if spec == "auto":
        return _recognised(tensors, config, extra, path)
    candidates = _asked(spec, tensors, config, extra)
    found, tried = _try(candidates, tensors, first=spec.partition(":")[0] not in ("torchvision", "timm"))
    if found:
        return found
    if not tried:
        said = f"the tensors in `{path}` are not those of {spec}"
        raise Problem(said, hint="`--arch auto` says what they look like")
    candidate, apart = min(tried, key=lambda pair: len(pair[1]))
    said = f"the tensors in `{path}` are not those of {candidate.name}: {apart.told}"
    raise Problem(said, hint="a net is loaded whole or not at all: check the file and `--arch`")


def _asked(spec: str, tensors: dict[str, Tensor], config: Facts | None, extra: Facts) -> Iterator[Candidate]:
    outline = outline_of(tensors)
    kind, colon, name = spec.partition(":")
    if kind == "torchvision" and colon:
        return from_torchvision.named(name, outline)
    if kind == "timm" and colon:
        return iter([from_timm.named(name, outline)])
    if ".py:" in spec:
        return from_file.candidates(spec, outline, _classes(config or {}) or _classes(extra))
    family = families.named(spec, outline)
    if family is not None:
        return nets.of(family, outline)
    raise Problem(
        f"`--arch {spec}` is none of the forms that bdscan knows",
        hint="auto, wrn-16-1 and the like, torchvision:NAME, timm:NAME or FILE.py:factory",
        status=USAGE,
    )


def _recognised(tensors: dict[str, Tensor], config: Facts | None, extra: Facts, path: str) -> list[Found]:
    outline = outline_of(tensors)
    if config and "architecture" in config:
        described = from_timm.from_config(config, outline)
        rooms: list[Iterable[Candidate]] = [[described] if described else []]
    elif config and "architectures" in config:
        rooms = [from_transformers.candidates(config, tensors)]
    else:
        rooms = [
            nets.candidates(outline),
            from_torchvision.candidates(outline),
            from_timm.candidates(outline, _named(extra)),
            from_torchvision.near(outline),
        ]
    tried: list[tuple[Candidate, Difference]] = []
    for room in rooms:
        found, failed = _try(room, tensors)
        if found:
            return found
        tried += failed
    raise nearest(tried, outline, path)


def _try(
    candidates: Iterable[Candidate], tensors: dict[str, Tensor], *, first: bool = False
) -> tuple[list[Found], list[tuple[Candidate, Difference]]]:
    """Those that fit (with `first`, only the first of them) and those that do not."""
    found: list[Found] = []
    failed = []
    for candidate in candidates:
        result = fit(candidate, tensors)
        if isinstance(result, Difference):
            failed.append((candidate, result))
        elif result:
            found.append(result)
        if found and first:
            break
    return found, failed


def _classes(facts: Facts) -> int | None:
    count = facts.get("num_classes")
    return count if isinstance(count, int) and count > 1 else None


def _named(extra: Facts) -> str | None:
    return next(
        (str(extra[key]) for key in ("model_name", "arch", "architecture") if isinstance(extra.get(key), str)), None
    )
