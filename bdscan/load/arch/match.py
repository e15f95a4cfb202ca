"""Whether a net's tensors are the file's: all of them, by name and shape, or it is not that net."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bdscan.facts.problem import Problem
from bdscan.load.nets.candidate import COUNTER, Candidate, Misfit, Outline, outline_of

_SHOWN = 3  # names a sentence can hold


class _Hollow(TorchFunctionMode):
    """Layers get parameters without memory, so that building even a large net takes no time.

    Only `torch.empty` is diverted, which is what layers draw their parameters from; tables that a net computes
    (window indices, position grids) come out right.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        asked = dict(kwargs or {})
        if func is torch.empty:
            asked["device"] = "meta"
        return func(*args, **asked)


@dataclass(frozen=True)
class Difference:
    """What stands between a net and a file."""

    missing: tuple[str, ...]  # the net has them, the file does not
    unknown: tuple[str, ...]  # the file has them, the net does not
    shapes: tuple[str, ...]  # both have them, in other shapes

    def __len__(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.shapes)

    @property
    def told(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"the file lacks {_listed(self.missing)}")
        if self.unknown:
            parts.append(f"the net has no {_listed(self.unknown)}")
        if self.shapes:
            parts.append(f"of another shape: {_listed(self.shapes)}")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Found:
    """A net with all of the file's tensors in it."""

    net: nn.Module
    candidate: Candidate


def hollow(candidate: Candidate) -> nn.Module:
    """The net without memory for its parameters; the random generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        if candidate.whole:
            return candidate.build()
        with _Hollow():
            return candidate.build()


def difference(net: nn.Module, outline: Outline) -> Difference:
    wanted = outline_of(net.state_dict())
    shared = [name for name in wanted if name in outline and wanted[name] != outline[name]]
    return Difference(
        missing=tuple(name for name in wanted if name not in outline),
        unknown=tuple(name for name in outline if name not in wanted),
        shapes=tuple(f"{name} ({_sides(outline[name])}, not {_sides(wanted[name])})" for name in shared),
    )


def fit(candidate: Candidate, tensors: dict[str, Tensor]) -> Found | Difference | None:
    """The candidate with the file's tensors, or why not; None if no such net can be built at all."""
    held = candidate.convert(tensors) if candidate.convert else tensors
    try:
        net = hollow(candidate)
    except Misfit:
        return None
    apart = difference(net, outline_of(held))
    if len(apart):
        return apart
    _fill(net, held)
    if any(part.is_meta for part in (*net.parameters(), *net.buffers())):  # something is not in the state dict
        with torch.random.fork_rng(devices=[]):
            net = candidate.build()
        _fill(net, held)
    for module in net.modules():
        if getattr(module, "inplace", False):  # it would overwrite the maps that probes look at
            module.inplace = False  # type: ignore[assignment]
    return Found(net, candidate)


def nearest(tried: list[tuple[Candidate, Difference]], outline: Outline, path: str) -> Problem:
    """Nothing fits: what came closest, and what to do."""
    hint = "give the net's own code with `--arch FILE.py:factory`, or name it: `torchvision:NAME`, `timm:NAME`"
    if not tried:
        named = _listed(tuple(f"{name} ({_sides(shape)})" for name, shape in outline.items()))
        return Problem(f"the tensors in `{path}` are those of no net that bdscan knows: {named}", hint=hint)
    candidate, apart = min(tried, key=lambda pair: len(pair[1]))
    said = f"the tensors in `{path}` fit no net that bdscan knows; the nearest is {candidate.name}, but {apart.told}"
    return Problem(said, hint=hint)


def _fill(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Every tensor, as float32 where it is a number with a fraction; missing counters start at zero."""
    values = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    wanted = net.state_dict()
    for name in wanted:
        if name.endswith(COUNTER) and name not in values:
            values[name] = torch.tensor(0)
    state = OrderedDict((name, value) for name, value in values.items() if name in wanted or not name.endswith(COUNTER))
    state._metadata = wanted._metadata  # type: ignore[attr-defined]  # layers refuse or convert what other versions wrote
    net.load_state_dict(state, assign=True)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def resized(net: nn.Module, outline: Outline) -> nn.Module:
    """A library's net with as many classes and image channels as the file has.

    Only the layers that give the classes (all to the same number) and the one convolution that takes the images are
    replaced; whatever else differs is left to be told.
    """
    wanted = outline_of(net.state_dict())
    apart = [name for name, shape in wanted.items() if name in outline and outline[name] != shape]
    heads = [name for name in apart if _only(0, wanted[name], outline[name])]
    if len({(wanted[name][0], outline[name][0]) for name in heads}) == 1:
        for module in dict.fromkeys(name.rpartition(".")[0] for name in heads):
            _replace(net, module, outline)
    stems = [name for name in apart if len(wanted[name]) == 4 and _only(1, wanted[name], outline[name])]
    for name in stems if len(stems) == 1 else ():
        _replace(net, name.rpartition(".")[0], outline)
    return net


def _only(axis: int, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the shapes differ in this axis alone."""
    return len(one) == len(other) and [
        i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]
    ] == [axis]


def _replace(net: nn.Module, name: str, outline: Outline) -> None:
    old, shape = net.get_submodule(name), outline[f"{name}.weight"]
    bias = getattr(old, "bias", None) is not None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(shape[1], shape[0], bias)
    elif isinstance(old, nn.Conv2d) and old.groups == 1:
        stride, padding = old.stride, old.padding
        new = nn.Conv2d(shape[1], shape[0], old.kernel_size, stride, padding, old.dilation, bias=bias)  # type: ignore[arg-type]
    else:
        return
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, new)


def outputs(net: nn.Module, shape: tuple[int, int, int]) -> int | None:
    """How many classes the net answers with for an image of this shape; None if it cannot take one."""
    with torch.no_grad():
        try:
            answer = net.eval()(torch.full((2, *shape), 0.5))
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError):
            return None  # another size may do
    if isinstance(answer, Tensor) and answer.dim() == 2:
        return answer.shape[1]
    kind = f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    raise Problem(
        f"the net answers two images with {kind}, not with two rows of logits",
        hint="give a factory whose net returns the logits alone: `--arch FILE.py:factory`",
    )
