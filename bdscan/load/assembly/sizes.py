"""How large the images are that a net is made for: `--size`, what the file says, or what makes it right more often."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bdscan.facts.problem import Problem, unusable
from bdscan.images.image_set import ImageSet
from bdscan.images.source import Source
from bdscan.load.arch.match import FilledNet, count_outputs
from bdscan.load.assembly.choose import DIFFERENT_NETS, Option, agreement, beats
from bdscan.load.assembly.normalize import Norm
from bdscan.load.graph.rebuilt import square

_MAX_SIDE = 1024  # pixels a side; a file that asks for more could eat all memory
_LEAST_SIDE = 8
_SMALL = 128  # pixels a side: images up to here are as the net takes them, larger ones are photographs to be scaled
_PHOTOGRAPHS = 224  # what nets for photographs mostly take
_SAMPLE = 40  # images to tell sizes apart: a standard error of at most 8 points
_NORMS = 2  # normalisations tried at each size, the usual one and its rival: sizes differ by more than these
_LIKELY = 0.5  # of the sample right: where no size comes so far, the other normalisations are tried as well

Shape = tuple[int, int, int]
Sides = tuple[int, int]
Facts = Sequence[Mapping[str, object]]  # what the file and the `config.json` beside it say of themselves


@dataclass(frozen=True)
class Sizes:
    """The shapes of images that the net may be made for, the likeliest first."""

    shapes: tuple[Shape, ...]
    classes: int
    guessed: bool  # nobody states it, no image shows it, and the net takes others too


@dataclass(frozen=True)
class Settled:
    """The size taken, and what is to be said about it."""

    shape: Shape
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def parse(spec: str | None) -> Sides | None:
    """`--size`: a side, or height and width as in 96x128."""
    if spec is None:
        return None
    parts = spec.split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and len(part) <= 4 for part in parts):
        raise unusable(f"`--size {spec}` is no size", "a side in pixels, or HEIGHTxWIDTH")
    sides = [int(part) for part in parts] * 2
    if not all(_LEAST_SIDE <= side <= _MAX_SIDE for side in sides):
        raise unusable(f"`--size {spec}` is out of bounds", f"from {_LEAST_SIDE} to {_MAX_SIDE} pixels a side")
    return sides[0], sides[1]


def possible(filled: FilledNet, graph: Shape | None, facts: Facts, images: Source | None, given: Sides | None) -> Sizes:
    """The sizes it takes: what the user gives, the file's `graph` or its `facts` state, or all it could be."""
    candidate, size = filled.candidate, images.size if images else None
    channels = (graph[0] if graph else None) or _channels(filled.net) or (size[0] if size else 3)
    usual = [(side, side) for side in candidate.sizes]
    stated = [given] if given else [graph[1:]] if graph else usual if candidate.fixed_size else []
    groups = [stated] if stated else [list(_stated(facts)), *_groups(usual, size, images is not None)]
    row = None if stated else _row(filled.net)
    if row is not None and (classes := count_outputs(filled.net, row)):
        return Sizes((row,), classes, guessed=False)
    trial = _Trial(filled.net, channels)
    first = trial.first(groups[0])
    shapes = [first] if first else [shape for group in groups[1:] if (shape := trial.first(group))]
    if not shapes and not stated:
        shapes = [shape for shape in [trial.first(usual)] if shape]
    if not shapes:
        message = f"{candidate.name} takes images of none of the sizes {', '.join(map(_named, trial.counts))}"
        raise Problem(message, hint="give clean images of the size it takes (`--clean DATA`), or state it (`--size N`)")
    same = [shape for shape in dict.fromkeys(shapes) if trial.counts[shape] == trial.counts[shapes[0]]]
    other = [] if first or images else [sides for sides in usual if sides != shapes[0][1:]]
    return Sizes(tuple(same), trial.counts[shapes[0]] or 0, guessed=trial.first(other) is not None)


class _Trial:
    """What a net says of images of each shape."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        self.net, self.channels = net, channels
        self.counts: dict[Shape, int | None] = {}  # how many classes it answers with; None: it takes none such

    def first(self, sides: Iterable[Sides]) -> Shape | None:
        """The first of these that the net takes."""
        for high, wide in sides:
            shape = (self.channels, high, wide)
            if shape not in self.counts:
                self.counts[shape] = count_outputs(self.net, shape) if max(shape) <= _MAX_SIDE else None
            if self.counts[shape] is not None:
                return shape
        return None


def _groups(usual: list[Sides], images: Shape | None, any_images: bool) -> Iterator[list[Sides]]:
    """Sizes that it could be: of each group the first that the net takes."""
    if images and max(images[1:]) <= max(_SMALL, usual[0][0]):
        yield [images[1:]]
        if usual[0][0] > _SMALL:  # a net for photographs, to which small ones may have been enlarged
            yield usual[:1]
        return
    yield usual
    if any_images:
        yield [(_PHOTOGRAPHS, _PHOTOGRAPHS)]


def settled(
    sizes: Sizes,
    filled: FilledNet,
    load_clean: Callable[[Shape, int], ImageSet],
    norms_at: Callable[[Shape], tuple[bool, Sequence[Norm]]],
    device: torch.device,
) -> Settled:
    """The size at which the net is right most often."""
    if len(sizes.shapes) == 1:
        shape = sizes.shapes[0]
        message = f"nothing states the size of the images: {_named(shape)} was assumed (`--size` states it)"
        return Settled(shape, doubts=(message,) if sizes.guessed else ())
    best: dict[Shape, Option] = {}
    samples = {shape: load_clean(shape, _SAMPLE) for shape in sizes.shapes}
    labels = samples[sizes.shapes[0]].labels
    for norms in (slice(_NORMS), slice(_NORMS, None)):
        for shape, sample in samples.items():
            options = [Option(filled, norm) for norm in norms_at(shape)[1][norms]]
            for option in options:
                option.ask(sample.images, device)
            kept = [best[shape]] if shape in best else []
            best[shape] = max([*kept, *options], key=lambda option: option.accuracy(labels))
        if max(option.accuracy(labels) for option in best.values()) > _LIKELY:
            break
    order = sorted(best, key=lambda shape: -best[shape].accuracy(labels))  # stable: the likelier first among equals
    told = ", ".join(f"{_named(shape)} {best[shape].accuracy(labels):.1%}" for shape in order)
    told += f" of {len(labels)} images right"
    winning = best[order[0]]
    rivals = [best[shape] for shape in order[1:] if not beats(winning, best[shape], labels)]
    if any(agreement(winning, rival) < DIFFERENT_NETS for rival in rivals):
        return Settled(order[0], doubts=(f"the size of the images is not settled: {told} (`--size` states it)",))
    return Settled(order[0], notes=(f"size chosen by accuracy: {told}",))


def _stated(facts: Facts) -> Iterator[Sides]:
    """Height and width as a file or a `config.json` states them, the channels first, last or left out."""
    for table in facts:
        inner = table.get("pretrained_cfg")
        for each in (inner if isinstance(inner, Mapping) else {}, table):
            for key in ("input_size", "img_size", "image_size"):
                value = each.get(key)
                sides = [value] * 2 if isinstance(value, int) else value
                if isinstance(sides, list | tuple) and all(isinstance(side, int) for side in sides):
                    kept = [side for side in sides if _LEAST_SIDE <= side <= _MAX_SIDE]  # channels are 1 or 3
                    if len(kept) == 2:
                        yield kept[0], kept[1]


def _row(net: nn.Module) -> Shape | None:
    """The square image whose numbers a net without convolutions takes in one row."""
    if _channels(net) is not None:
        return None
    linear = next((module for module in net.modules() if isinstance(module, nn.Linear)), None)
    return square(linear.in_features) if linear is not None else None


def _channels(net: nn.Module) -> int | None:
    return next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), None)


def _named(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
