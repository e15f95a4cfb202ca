"""In what order the layers run, and which of them stand beside others: what the widths and names allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bdscan.facts.deadline import check_time
from bdscan.load.search.parts import Kind, Part, natural

_SHORTCUT = re.compile(r"down|short|skip|proj|ident|resid|res_?conv|match|adapt", re.IGNORECASE)
_RESIDUAL = re.compile(r"res|block|layer|unit|skip", re.IGNORECASE)
_NORM_WORDS = re.compile(r"batch_?norm\d?d?|group_?norm|layer_?norm|instance_?norm|norm|bn|gn|ln|conv|fc|linear|dense")
_MAX_STEPS = 10_000  # of looking for an order in which the widths fit
_MAX_CHAINS = 8  # readings of one file


@dataclass(frozen=True)
class Stage:
    """A convolution or a linear layer, with what has tensors and stands between it and the next."""

    layer: Part
    norm: Part | None = None
    prelu: Part | None = None
    weightless: int | None = None  # modules without tensors that stand before the next, where the names tell


_Spans = dict[int, tuple[int, tuple[Stage, ...]]]  # from the first stage of a body to its end and its shortcut


@dataclass(frozen=True)
class Residual:
    """Stages that run beside a shortcut: one with layers of its own, or none."""

    body: tuple[Stage, ...]
    shortcut: tuple[Stage, ...] = ()


Item = Stage | Residual


@dataclass(frozen=True)
class Chain:
    """All layers of a file in the order in which they run."""

    items: tuple[Item, ...]
    first_norm: Part | None = None  # of the image itself
    flat_norm: Part | None = None  # of the maps once they are flattened
    shared_prelu: Part | None = None  # one for every place
    cost: float = 0.0  # how unusual it is

    @property
    def stages(self) -> Iterator[Stage]:
        for item in self.items:
            yield from (item,) if isinstance(item, Stage) else (*item.body, *item.shortcut)


def chains(parts: Sequence[Part]) -> list[Chain]:
    """Every reading that uses all parts, the likeliest first."""
    found: dict[Chain, None] = {}
    for order, orders_cost in ((list(parts), 0.0), (sorted(parts, key=lambda part: natural(part.name)), 1.0)):
        for chain in _readings(order):
            found.setdefault(replace(chain, cost=chain.cost + orders_cost))
        if found:
            break
    return sorted(found, key=lambda chain: chain.cost)[:_MAX_CHAINS]


def _readings(parts: list[Part]) -> Iterator[Chain]:
    layers = [part for part in parts if part.kind in (Kind.CONV, Kind.LINEAR)]
    if not layers:
        return
    named = [part for part in layers if part.kind is Kind.CONV and _SHORTCUT.search(part.name)]
    odd = [part for part in layers if part.kind is Kind.CONV and part.kernel == (1, 1)]
    for beside in dict.fromkeys((tuple(named), (), tuple(odd))):
        main = _in_order([layer for layer in layers if layer not in beside])
        if main is None:
            continue
        found = [
            replace(rest, items=items, cost=norms_cost + cost)
            for stages, norms_cost, rest in _with_norms(parts, main, beside)
            for items, cost in _with_shortcuts(stages, beside, rest)
        ]
        yield from found
        if found:
            return


def _in_order(layers: list[Part]) -> list[Part] | None:
    """The layers as their widths follow from one another, in the file's order where that fits."""
    layers = [part for part in layers if part.kind is Kind.CONV] + [part for part in layers if part.kind is Kind.LINEAR]
    steps = 0

    def extend(order: list[Part], left: list[Part]) -> list[Part] | None:
        nonlocal steps
        check_time()
        if not left:
            return order
        convs = [part for part in left if part.kind is Kind.CONV]
        for part in convs or left:
            steps += 1
            if steps > _MAX_STEPS:
                return None
            if _follows(order[-1] if order else None, part):
                found = extend([*order, part], [other for other in left if other is not part])
                if found:
                    return found
        return None

    return extend([], layers)


def _follows(before: Part | None, part: Part) -> bool:
    if before is None:
        return part.kind is Kind.LINEAR or part.shape[1] in (1, 3)
    if before.kind is Kind.LINEAR:
        return part.shape[1] == before.given
    return part.takes(before.given)


def _with_norms(
    parts: list[Part], main: list[Part], beside: tuple[Part, ...]
) -> Iterator[tuple[list[Stage], float, Chain]]:
    """The norms and PReLUs put behind the layers they belong to: by place in the file, by name, or by width."""
    layers = [*main, *beside]
    small = [part for part in parts if part.kind in (Kind.NORM, Kind.PRELU)]
    prelus = [part for part in small if part.kind is Kind.PRELU]
    shared = prelus[0] if len(prelus) == 1 and len(layers) > 2 and prelus[0].given == 1 else None
    small = [part for part in small if part is not shared]
    seen = set[tuple[Stage, ...]]()
    for cost, place in enumerate((_by_place, _by_name, _by_width)):
        owners = place(parts, layers, small)
        if owners is None:
            continue
        held: dict[str, dict[Kind, Part]] = {}
        for part, owner in owners.items():
            held.setdefault(owner, {})[part.kind] = part
        stages = [
            Stage(layer, held.get(layer.name, {}).get(Kind.NORM), held.get(layer.name, {}).get(Kind.PRELU))
            for layer in layers
        ]
        if sum(map(len, held.values())) == len(small) and tuple(stages) not in seen:
            seen.add(tuple(stages))
            extra = {kind: held.get(kind, {}).get(Kind.NORM) for kind in (_IMAGE, _FLAT)}
            rest = Chain((), extra[_IMAGE], extra[_FLAT], shared)
            yield _gaps(stages, parts), float(cost), rest


_IMAGE, _FLAT = "<image>", "<flat>"  # owners of norms that follow no layer
_Owners = dict[Part, str] | None


def _fits(part: Part, layer: Part) -> bool:
    return part.shape[0] == layer.given or (part.kind is Kind.PRELU and part.given == 1)


def _elsewhere(part: Part, layers: Sequence[Part]) -> str | None:
    """The owner of a norm that fits no layer's output."""
    flat = [layer.shape[1] for layer in layers if layer.kind is Kind.LINEAR][:1]
    if part.kind is Kind.NORM and len(part.shape) == 1:
        if part.given == layers[0].shape[1]:
            return _IMAGE
        if [part.given] == flat:
            return _FLAT
    return None


def _by_place(parts: list[Part], layers: list[Part], small: list[Part]) -> _Owners:
    owners: dict[Part, str] = {}
    last: Part | None = None
    for part in parts:
        if part in layers:
            last = part
        elif part in small:
            owner = last.name if last is not None and _fits(part, last) else _elsewhere(part, layers)
            if owner is None:
                return None
            owners[part] = owner
    return owners


def _by_name(parts: list[Part], layers: list[Part], small: list[Part]) -> _Owners:
    """`bn1` belongs to `conv1`, `conv1_bn` as well, `bn_fc1` to `fc1`."""
    owners: dict[Part, str] = {}
    for part in small:
        stem, alike = _stem(part.name), [layer for layer in layers if _fits(part, layer)]
        full = [layer for layer in alike if layer.name in part.name or layer.name.replace("_", "") in part.name]
        named = full or [layer for layer in alike if _stem(layer.name) == stem]
        owner = named[0].name if named else _elsewhere(part, layers)
        if owner is None:
            return None
        owners[part] = owner
    return owners


def _by_width(parts: list[Part], layers: list[Part], small: list[Part]) -> _Owners:
    owners: dict[Part, str] = {}
    for part in small:
        taken = {(owner, other.kind) for other, owner in owners.items()}
        free = [layer.name for layer in layers if _fits(part, layer) and (layer.name, part.kind) not in taken]
        owner = free[0] if free else _elsewhere(part, layers)
        if owner is None:
            return None
        owners[part] = owner
    return owners


def _stem(name: str) -> str:
    return _NORM_WORDS.sub("", name.lower()).replace("_", "")


def _gaps(stages: list[Stage], parts: list[Part]) -> list[Stage]:
    """How many modules without tensors stand behind each stage, where both neighbours are numbered in one sequence."""
    numbers: dict[str, list[int]] = {}
    for part in parts:
        if part.number is not None:
            numbers.setdefault(part.parent, []).append(part.number)
    # a list of layers has no gaps at all: what runs between them is not in it
    sequences = {parent for parent, held in numbers.items() if max(held) - min(held) + 1 > len(held)}
    told = []
    for stage in stages:
        own = [part for part in (stage.layer, stage.norm, stage.prelu) if part is not None]
        parents = {part.parent for part in own}
        places = [part.number for part in own if part.number is not None]
        if len(parents) == 1 and parents <= sequences and len(places) == len(own):
            later = [number for number in numbers[own[0].parent] if number > max(places)]
            inside = max(places) - min(places) + 1 - len(places)
            if later:
                stage = replace(stage, weightless=inside + min(later) - max(places) - 1)
        told.append(stage)
    return told


def _with_shortcuts(
    stages: list[Stage], beside: tuple[Part, ...], rest: Chain
) -> Iterator[tuple[tuple[Item, ...], float]]:
    """The stages with those of `beside` put next to what they bridge; then with identities next to blocks as well."""
    main = [stage for stage in stages if stage.layer not in beside]
    spans: _Spans = {}
    for stage in stages:
        if stage.layer in beside:
            span = _bridged(main, stage.layer)
            if span is None or span[0] in spans:
                return
            spans[span[0]] = (span[1], (stage,))
    plain = _assembled(main, spans)
    identities = [spans | more for more in _identities(main, spans)]
    if spans:  # where one block has a shortcut, its like have one too
        for more in identities:
            yield _assembled(main, more), 0.0
        yield plain, 1.0
        return
    telling = any(_RESIDUAL.search(main[start].layer.name) for more in identities for start in more)
    yield plain, 1.0 if telling else 0.0
    for more in identities:
        yield _assembled(main, more), 0.5 if telling else 3.0


def _assembled(main: list[Stage], spans: _Spans) -> tuple[Item, ...]:
    items: list[Item] = []
    place = 0
    while place < len(main):
        if place in spans:
            end, shortcut = spans[place]
            items.append(Residual(tuple(main[place:end]), shortcut))
            place = end
        else:
            items.append(main[place])
            place += 1
    return tuple(items)


def _bridged(main: list[Stage], shortcut: Part) -> tuple[int, int] | None:
    """The stages of the same block, or the fewest in a row with the shortcut's widths at either end."""
    found = _SHORTCUT.search(shortcut.name)
    block = shortcut.name[: found.start()] if found else shortcut.parent
    block = block.rpartition(".")[0]
    inside = [i for i, stage in enumerate(main) if block and stage.layer.name.startswith(f"{block}.")]
    if inside and inside[-1] - inside[0] + 1 == len(inside) and _spans(main, inside[0], inside[-1] + 1, shortcut):
        return inside[0], inside[-1] + 1
    for length in range(2, len(main)):
        for start in range(len(main) - length):
            if _spans(main, start, start + length, shortcut):
                return start, start + length
    return None


def _spans(main: list[Stage], start: int, end: int, shortcut: Part) -> bool:
    body = main[start:end]
    if any(stage.layer.kind is not Kind.CONV for stage in body):
        return False
    return shortcut.takes(_width_before(main, start)) and body[-1].layer.given == shortcut.given


def _width_before(main: list[Stage], start: int) -> int:
    return main[start - 1].layer.given if start else main[0].layer.shape[1]


def _identities(main: list[Stage], spans: _Spans) -> Iterator[_Spans]:
    """Blocks of two convolutions and more that keep the width, by each level of the names."""
    seen = []
    covered = {i for start, (end, _) in spans.items() for i in range(start, end)}
    for level in range(1, 5):
        groups: dict[str, list[int]] = {}
        for i, stage in enumerate(main):
            pieces = stage.layer.name.split(".")
            if len(pieces) > level and stage.layer.kind is Kind.CONV and i not in covered:
                groups.setdefault(".".join(pieces[:level]), []).append(i)
        more: _Spans = {
            held[0]: (held[-1] + 1, ())
            for held in groups.values()
            if len(held) > 1
            and held[-1] - held[0] + 1 == len(held)
            and held[0] > 0
            and main[held[-1]].layer.given == _width_before(main, held[0])
        }
        if more and more not in seen:
            seen.append(more)
            yield more
