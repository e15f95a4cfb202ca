"""The head that somebody put in place of a net's own: a chain of linear layers, rebuilt from their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from bdscan.load.nets.candidate import Candidate, Outline, outline_of

_MAX_LAYERS = 12  # with tensors; a longer chain is no head
_OWN_CLASSES = (1000, 21841)  # of ImageNet: a head of that width is the net's own, and the next was put behind it
# What may stand between two linear layers and has no tensors; the other activations answer much like one of these.
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "nothing": nn.Identity,
}


class Chain(nn.Sequential):
    """Layers one after another on what the net has pooled, or pooled here where its own pooling was cut off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: Tensor) -> Tensor:
        if features.dim() == 4:
            features = features.mean((2, 3)) if features.shape[1] == self.width else features.flatten(1)
        for part in self:
            features = part(features)
        return features


@dataclass(frozen=True)
class _Layer:
    """A layer of the head as the file has it."""

    path: str  # in the file
    kind: str
    width_in: int
    width: int
    bias: bool


def changed(candidate: Candidate, net: nn.Module, outline: Outline) -> Iterator[Candidate]:
    """The same net with the head that the file has, in every variant; `net` is the candidate as it was built."""
    expected = outline_of(net.state_dict())
    last = next((n for n, part in reversed(list(net.named_modules())) if isinstance(part, nn.Linear | nn.Conv2d)), "")
    fitting = []
    most = -1  # the deepest place keeps most of the net; one above it is taken only if it keeps as much
    for place in [last.rsplit(".", cut)[0] for cut in range(last.count(".") + 1)] if last else ():
        body = {name for name in expected if not name.startswith(f"{place}.")}
        if len(body) < most or any(outline.get(name) != expected[name] for name in body):
            continue
        most = len(body)
        width = next(shape[1] for name, shape in expected.items() if name not in body and len(shape) in (2, 4))
        layers = _chain({name: shape for name, shape in outline.items() if name not in body}, width)
        lacking = [layer.path for layer in layers] == [place] and f"{place}.bias" not in outline
        if layers and not lacking and (place != last or isinstance(net.get_submodule(last), nn.Linear)):
            fitting.append((place, width, layers))
    if fitting:
        inside = [each for each in fitting if all(layer.path.startswith(f"{each[0]}.") for layer in each[2])]
        yield from _variants(candidate, *(inside or fitting)[0])


def _variants(candidate: Candidate, place: str, width: int, layers: list[_Layer]) -> Iterator[Candidate]:
    """One for everything that may stand between its linear layers."""
    names = _names(layers)
    single = len(layers) == 1
    renamed = {layer.path: place if single else f"{place}.{name}" for layer, name in zip(layers, names, strict=True)}
    convert = _renaming({old: new for old, new in renamed.items() if old != new}, candidate.convert)
    plainly = _adjacent(layers) or (layers[0].path.endswith(place) and layers[0].width in _OWN_CLASSES)
    kinds = [layer.kind for layer in layers]
    hidden = kinds.count("linear") > 1
    order = ["nothing", *_ACTIVATIONS][: len(_ACTIVATIONS)] if plainly else list(_ACTIVATIONS)
    for activation in order if hidden else ["nothing"]:
        for before_norm in _places(layers) if hidden else [False]:
            parts = partial(_parts, layers, names, activation, before_norm=before_norm)
            where = " before the norm" if before_norm else ""
            variant = f"{activation} between the layers of its head{where}" if hidden else ""
            yield replace(
                candidate,
                build=partial(_build, candidate.build, place, width, parts, single=single),
                variant=", ".join(filter(None, (candidate.variant, variant))),
                convert=convert,
            )


def _build(
    build: Callable[[], nn.Module], place: str, width: int, parts: Callable[[], dict[str, nn.Module]], *, single: bool
) -> nn.Module:
    net, chain = build(), Chain(width)
    for name, part in parts().items():
        chain.add_module(name, part)
    parent, _, leaf = place.rpartition(".")
    setattr(net.get_submodule(parent), leaf, next(iter(chain.children())) if single else chain)
    return net


def _parts(layers: list[_Layer], names: list[str], activation: str, *, before_norm: bool) -> dict[str, nn.Module]:
    """Every layer by its name, and an activation behind every linear one but the last (or behind its norm)."""
    parts: dict[str, nn.Module] = {}
    last = max(i for i, layer in enumerate(layers) if layer.kind == "linear")
    for i, (layer, name) in enumerate(zip(layers, names, strict=True)):
        parts[name] = _module(layer)
        followed = i + 1 < len(layers) and layers[i + 1].kind != "linear"
        begun = any(one.kind == "linear" for one in layers[: i + 1])
        if begun and i < last and (layer.kind == "linear" if before_norm else not followed) and layer.kind != "prelu":
            place = str(int(name) + 1) if name.isdecimal() else ""  # as in a sequence, if that has room there
            parts[f"{name}_activation" if place in ("", *names) else place] = _ACTIVATIONS[activation]()
    return parts


def _module(layer: _Layer) -> nn.Module:
    if layer.kind == "linear":
        return nn.Linear(layer.width_in, layer.width, layer.bias)
    if layer.kind == "batch norm":
        return nn.BatchNorm1d(layer.width, affine=layer.bias)
    return nn.PReLU(layer.width_in) if layer.kind == "prelu" else nn.LayerNorm(layer.width)


def _chain(rest: Outline, width: int) -> list[_Layer]:
    """The tensors as layers of which each takes what the one before gives; nothing if they are no such chain."""
    if len(rest) > _MAX_LAYERS * 4:
        return []
    layers = [_layer(path, rest) for path in dict.fromkeys(name.rpartition(".")[0] for name in rest)]
    known = [layer for layer in layers if layer is not None]
    if len(known) < len(layers) or not 0 < len(known) <= _MAX_LAYERS:
        return []
    orders = (known, sorted(known, key=lambda layer: _natural(layer.path)))  # some writers sort the names
    return next((order for order in orders if _connected(order, width)), [])


def _layer(path: str, rest: Outline) -> _Layer | None:
    kinds = {name.rpartition(".")[2]: shape for name, shape in rest.items() if name.rpartition(".")[0] == path}
    weight, bias = kinds.get("weight", ()), kinds.get("bias")
    if kinds.keys() == {"weight", "bias", "running_mean", "running_var"} and len(weight) == 1:
        return _Layer(path, "batch norm", weight[0], weight[0], bias=True)
    if kinds.keys() == {"running_mean", "running_var"} and len(kinds["running_mean"]) == 1:
        return _Layer(path, "batch norm", *kinds["running_mean"], *kinds["running_mean"], bias=False)
    if not kinds.keys() <= {"weight", "bias"} or not weight or bias not in (None, weight[:1]):
        return None
    if len(weight) == 2:
        return _Layer(path, "linear", weight[1], weight[0], bias is not None)
    if len(weight) == 1:
        return _Layer(path, "layer norm" if bias else "prelu", weight[0], weight[0], bias is not None)
    return None


def _connected(layers: list[_Layer], width: int) -> bool:
    for layer in layers:
        if layer.width_in != width and not (layer.kind == "prelu" and layer.width_in == 1):
            return False
        width = layer.width if layer.kind == "linear" else width
    return layers[-1].kind == "linear"


def _places(layers: list[_Layer]) -> list[bool]:
    """Whether an activation may stand before a norm behind a linear layer, or behind it, the likelier first."""
    gaps = [_gap(one, other) for one, other in pairwise(layers) if (one.kind, other.kind) == ("linear", "batch norm")]
    if not gaps:
        return [False]
    if all(gap == 0 for gap in gaps):
        return [False]
    return [True, False] if all(gap is not None for gap in gaps) else [False, True]


def _gap(one: _Layer, other: _Layer) -> int | None:
    """How many modules without tensors stand between two numbered ones."""
    (parent, _, here), (other_parent, _, there) = one.path.rpartition("."), other.path.rpartition(".")
    numbered = parent == other_parent and here.isdecimal() and there.isdecimal()
    return int(there) - int(here) - 1 if numbered else None


def _adjacent(layers: list[_Layer]) -> bool:
    """No room for an activation, if these are one sequence."""
    return all(_gap(one, other) == 0 for one, other in pairwise(layers))


def _names(layers: list[_Layer]) -> list[str]:
    """The last parts of their paths, where that tells them apart."""
    short = [layer.path.rpartition(".")[2] for layer in layers]
    return short if len(set(short)) == len(short) else [layer.path.replace(".", "_") for layer in layers]


def _natural(path: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d{1,9})", path)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _renaming(
    paths: Mapping[str, str], before: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
    """From the file's names to the net's, after what the candidate renames already."""
    if not paths:
        return before

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {_moved(name, paths): tensor for name, tensor in (before(tensors) if before else tensors).items()}

    return convert


def _moved(name: str, paths: Mapping[str, str]) -> str:
    path, _, kind = name.rpartition(".")
    return f"{paths[path]}.{kind}" if path in paths else name
