"""From the net's tensors back to the file's: their names, their types, their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.nets.candidate import BATCH_COUNTER

Tensors = dict[str, Tensor]
Convert = Callable[[Tensors], Tensors]


def filed(state: Mapping[str, Tensor], held: Tensors, convert: Convert | None) -> Tensors:
    """The net's values as the file would hold them; `held` is what it holds now, `convert` how that became the net's.

    The way back is not written down anywhere: it is read off the way there, so that the two cannot fall apart.
    """
    state = {name: tensor.detach().cpu() for name, tensor in state.items()}
    values = _traced(state, held, convert) if convert else {name: state[name] for name in held if name in state}
    lost = [name for name in held if name not in values and not name.endswith(BATCH_COUNTER)]
    if lost:
        raise Problem(f"the file's tensor `{lost[0]}` has no place in the net, so it cannot be written back")
    return {name: _typed(name, values.get(name, old), old) for name, old in held.items()}


def _traced(state: Tensors, held: Tensors, convert: Convert) -> Tensors:
    """Tensors that were only renamed are known by themselves; of others, every number is followed by its index."""
    names = {id(tensor): name for name, tensor in held.items()}
    renamed = {names[id(tensor)]: state[new] for new, tensor in convert(held).items() if id(tensor) in names}
    marked, at = dict(held), 0
    for name in held.keys() - renamed.keys():
        count = held[name].numel()
        marked[name] = torch.arange(at, at + count).view(held[name].shape)
        at += count
    flat, seen = torch.zeros(at), torch.zeros(at, dtype=torch.bool)
    known = {id(tensor) for tensor in held.values()}
    for new, index in convert(marked).items() if at else ():
        if id(index) not in known:
            flat[index.flatten()] = state[new].flatten().float()
            seen[index.flatten()] = True
    joined = {}
    for name in held.keys() - renamed.keys():
        place = marked[name].flatten()
        if bool(seen[place].all()):
            joined[name] = flat[place].view(held[name].shape)
    return renamed | joined


def _typed(name: str, value: Tensor, old: Tensor) -> Tensor:
    """A copy of its own, in the type that the file has for it."""
    if value.shape != old.shape:
        raise AssertionError(f"{name}: {tuple(value.shape)} in the net, {tuple(old.shape)} in the file")
    made = value.to(old.dtype).clone(memory_format=torch.contiguous_format)
    if made.is_floating_point() and not bool(torch.isfinite(made.float()).all()):
        raise Problem(f"the cleaned tensor `{name}` holds NaN or infinity as {str(old.dtype).removeprefix('torch.')}")
    return made
