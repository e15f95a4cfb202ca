"""Whether a net's tensors are the file's: all of them, by name and shape, or it is not that net."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bdscan.facts.problem import Problem, plain
from bdscan.load.arch.bounded import Bounded, OutOfProportion, largest_tensor
from bdscan.load.arch.kinds import other_kind
from bdscan.load.nets.candidate import BATCH_COUNTER, NOT_SUCH_A_NET, Candidate, Outline, outline_of

_MAX_NAMES = 3  # names a sentence can hold
_MAX_EXTRA = 1000  # tensors that a net may have beyond the file's while it is still of interest which they are
_LEAST_LIKENESS = 0.1  # share of tensors in common below which a net is not worth naming as the nearest
_MAX_TABLE = 1 << 26  # numbers in what a net works out while it is built


class _WithoutMemory(TorchFunctionMode):
    """Layers get parameters without memory, so that building even a large net takes no time.

    Only `torch.empty` is diverted, which is what layers draw their parameters from; tables that a net computes
    (window indices, position grids) come out right.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        arguments = dict(kwargs or {})
        if func is torch.empty:
            arguments["device"] = "meta"
            self.left -= 1
            if self.left < 0:
                raise OutOfProportion("it would have far more tensors than the file")
        return func(*args, **arguments)


@dataclass(frozen=True, eq=False)
class Difference:
    """What stands between a net and a file."""

    missing: tuple[str, ...]  # the net has them, the file does not
    unknown: tuple[str, ...]  # the file has them, the net does not
    shapes: tuple[str, ...]  # both have them, in other shapes
    alike: int  # tensors that are the same in both
    net: nn.Module

    @property
    def likeness(self) -> float:
        """Share of all tensors that are the same."""
        return self.alike / max(1, self.alike + len(self))

    def __len__(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.shapes)

    @property
    def described(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"the file lacks {_listed(self.missing)}")
        if self.unknown:
            parts.append(f"the net has no {_listed(self.unknown)}")
        if self.shapes:
            parts.append(f"of another shape: {_listed(self.shapes)}")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class FilledNet:
    """A net with all of the file's tensors in it."""

    net: nn.Module
    candidate: Candidate


def without_memory(candidate: Candidate, most: int) -> nn.Module:
    """The net, of at most so many tensors, without memory for them; the random generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        if candidate.needs_real_tensors:
            return candidate.build()
        with Bounded(_MAX_TABLE), _WithoutMemory(most):
            return candidate.build()


def compare(net: nn.Module, outline: Outline) -> Difference:
    expected = outline_of(net.state_dict())
    shared = [name for name in expected if name in outline and expected[name] != outline[name]]
    worked_out = dict(net.named_buffers())  # some releases of a library save the tables that others work out anew
    missing = tuple(name for name in expected if name not in outline)
    return Difference(
        missing=missing,
        unknown=tuple(name for name in outline if name not in expected and name not in worked_out),
        shapes=tuple(f"{name} ({_sides(outline[name])}, not {_sides(expected[name])})" for name in shared),
        alike=len(expected) - len(missing) - len(shared),
        net=net,
    )


def fit(candidate: Candidate, tensors: dict[str, Tensor]) -> FilledNet | Difference | None:
    """The candidate with the file's tensors, or why not; None if no such net can be built at all."""
    converted = candidate.convert(tensors) if candidate.convert else tensors
    try:
        net = without_memory(candidate, len(tensors) + _MAX_EXTRA)
    except NOT_SUCH_A_NET:
        return None
    difference = compare(net, outline_of(converted))
    if len(difference):
        return difference
    _check_kinds(net, converted)
    _check_tables(net, converted)
    _fill_in(net, converted)
    if any(part.is_meta for part in (*net.parameters(), *net.buffers())):  # something is not in the state dict
        with torch.random.fork_rng(devices=[]):
            net = candidate.build()
        _fill_in(net, converted)
    keep_maps(net)
    return FilledNet(net, candidate)


def _check_kinds(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Weights are fractions: whole numbers in their place are another net's, quantised or packed."""
    for name, _ in net.named_parameters():
        if not tensors[name].is_floating_point():
            kind = str(tensors[name].dtype).removeprefix("torch.")
            message = f"the tensor `{plain(name)}` is of type {kind}, where {type(net).__name__} has fractions"
            raise Problem(message, hint="save the net with plain float tensors")


def _check_tables(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """What the net works out by itself must be what the file says it is."""
    saved = net.state_dict().keys()
    for name, table in net.named_buffers():
        theirs = tensors.get(name)
        if theirs is not None and name not in saved and (table.is_meta or not _same_values(table, theirs)):
            message = f"the file's table `{plain(name)}` is not the one that {type(net).__name__} works out"
            raise Problem(message, hint="give the net's own code with `--arch FILE.py:factory`")


def _same_values(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5)


def keep_maps(net: nn.Module) -> None:
    """No layer works in place: it would overwrite the maps that probes look at."""
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def told_apart(fitting: list[FilledNet]) -> list[FilledNet]:
    """Without those that are the same net under another name; where several are left, each says which it is."""
    different: dict[object, FilledNet] = {}
    for filled in fitting:
        different.setdefault(_signature(filled.net), filled)
    names = {filled.candidate.name for filled in different.values()}
    return [
        filled if len(names) == 1 else replace(filled, candidate=_as_itself(filled.candidate))
        for filled in different.values()
    ]


def _as_itself(candidate: Candidate) -> Candidate:
    variant = ", ".join(filter(None, (f"read as {candidate.name}", candidate.variant)))
    return replace(candidate, variant=variant)


def _signature(net: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """All that its layers are and are set to."""
    return tuple(
        (name, type(part).__qualname__, repr([(key, _setting(value)) for key, value in sorted(vars(part).items())]))
        for name, part in net.named_modules()
    )


def _setting(value: object) -> object:
    """What can be compared of an attribute; nothing of tables of children and tensors."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_setting(part) for part in value]
    return getattr(value, "__qualname__", "")


class NoMatch(Problem):
    """No net that is known has such tensors."""


def no_match(misfits: list[tuple[Candidate, Difference]], outline: Outline, path: str) -> Problem:
    """Nothing fits: what it is, if it is no classifier; what came closest; and what to do."""
    if kind := other_kind(outline):
        message = f"the tensors in `{path}` are those of {kind}: bdscan judges image classifiers"
        return Problem(message, hint="a classifier built on it can be judged with `--arch FILE.py:factory`")
    hint = "give the net's own code with `--arch FILE.py:factory`, or name it: `torchvision:NAME`, `timm:NAME`"
    hint += "; a plain net is also inferred from labelled images (`--clean DATA`)"
    candidate, difference = max(misfits, key=lambda pair: pair[1].likeness, default=(None, None))
    if candidate is None or difference is None or difference.likeness < _LEAST_LIKENESS:
        named = _listed(tuple(f"{name} ({_sides(shape)})" for name, shape in outline.items()))
        return NoMatch(f"the tensors in `{path}` are those of no net that bdscan knows: {named}", hint=hint)
    nearest = f"the nearest is {candidate.name}, but {difference.described}"
    return NoMatch(f"the tensors in `{path}` fit no net that bdscan knows; {nearest}", hint=hint)


def _fill_in(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Every tensor, as float32 where it is a number with a fraction; missing counters start at zero."""
    values = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    expected = net.state_dict()
    counters = {name: torch.tensor(0) for name in expected if name.endswith(BATCH_COUNTER)}
    state = OrderedDict(counters | {name: value for name, value in values.items() if name in expected})
    state._metadata = expected._metadata  # type: ignore[attr-defined]  # layers refuse or convert what other versions wrote
    net.load_state_dict(state, assign=True)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{plain(name)}`" for name in names[:_MAX_NAMES])
    return shown + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def resized(net: nn.Module, outline: Outline) -> nn.Module:
    """A library's net with as many classes and image channels as the file has.

    Only the layers that give the classes (all to the same number) and the one convolution that takes the images are
    replaced; whatever else differs is left to be told.
    """
    expected = outline_of(net.state_dict())
    difference = [name for name, shape in expected.items() if name in outline and outline[name] != shape]
    heads = [name for name in difference if _differ_only_in(0, expected[name], outline[name])]
    if len({(expected[name][0], outline[name][0]) for name in heads}) == 1:
        for module in dict.fromkeys(name.rpartition(".")[0] for name in heads):
            _replace(net, module, outline)
    convs = [name for name in difference if len(expected[name]) == 4]
    stems = [name for name in convs if _differ_only_in(1, expected[name], outline[name])]
    if len(stems) == 1:
        _replace(net, stems[0].rpartition(".")[0], outline)
    return net


def _differ_only_in(axis: int, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return (
        len(one) == len(other)
        and one[axis] != other[axis]
        and one[:axis] + one[axis + 1 :] == other[:axis] + other[axis + 1 :]
    )


def _replace(net: nn.Module, name: str, outline: Outline) -> None:
    """The layer with parameters of another size: whatever its class does besides, it goes on doing."""
    layer, shape = net.get_submodule(name), outline[f"{name}.weight"]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
        layer.out_channels, layer.in_channels = shape[:2]
    else:
        return
    layer.weight = nn.Parameter(torch.empty(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty(shape[:1]))
    layer.reset_parameters()


def count_outputs(net: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """How many classes the net answers with for an image of this shape; None if it cannot take one."""
    with torch.no_grad(), Bounded(largest_tensor(shape, 2)):
        try:
            answer = net.eval()(torch.full((2, *shape), 0.5))
        except OutOfProportion as error:
            raise Problem(f"the net asks for more than images of {_sides(shape)} can need: {error}") from None
        except (*NOT_SUCH_A_NET, MemoryError):
            return None  # another size may do
    if isinstance(answer, Tensor) and answer.dim() == 2:
        return answer.shape[1]
    kind = f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    message = f"the net answers two images with {kind}, not with two rows of logits"
    raise Problem(message, hint="give a factory whose net returns the logits alone: `--arch FILE.py:factory`")
