"""From the net's tensors back to the file's: their names, their types, their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.nets.candidate import BATCH_COUNTER

Tensors = dict[str, Tensor]
Convert = Callable[[Tensors], Tensors]


def as_in_file(state: Mapping[str, Tensor], originals: Tensors, convert: Convert | None) -> Tensors:
    """The net's values as the file would hold them; `convert` is how the `originals` in it became the net's.

    The way back is not written down anywhere: it is read off the way there, so that the two cannot fall apart.
    """
    state = {name: tensor.detach().cpu() for name, tensor in state.items()}
    values = (
        _traced(state, originals, convert) if convert else {name: state[name] for name in originals if name in state}
    )
    missing = [name for name in originals if name not in values and not name.endswith(BATCH_COUNTER)]
    if missing:
        raise Problem(f"the file's tensor `{missing[0]}` has no place in the net, so it cannot be written back")
    return {name: _typed(name, values.get(name, old), old) for name, old in originals.items()}


def _traced(state: Tensors, originals: Tensors, convert: Convert) -> Tensors:
    """Tensors that were only renamed are known by themselves; of others, every number is followed by its index."""
    names = {id(tensor): name for name, tensor in originals.items()}
    renamed = {names[id(tensor)]: state[new] for new, tensor in convert(originals).items() if id(tensor) in names}
    marked, count_so_far = dict(originals), 0
    for name in originals.keys() - renamed.keys():
        count = originals[name].numel()
        marked[name] = torch.arange(count_so_far, count_so_far + count).view(originals[name].shape)
        count_so_far += count
    flat, reached = torch.zeros(count_so_far), torch.zeros(count_so_far, dtype=torch.bool)
    unchanged = {id(tensor) for tensor in originals.values()}
    for new, index in convert(marked).items() if count_so_far else ():
        if id(index) not in unchanged:
            flat[index.flatten()] = state[new].flatten().float()
            reached[index.flatten()] = True
    places = {name: marked[name] for name in originals.keys() - renamed.keys()}
    return renamed | {name: flat[place] for name, place in places.items() if bool(reached[place].all())}


def _typed(name: str, value: Tensor, old: Tensor) -> Tensor:
    """A copy of its own, in the type that the file has for it."""
    if value.shape != old.shape:
        raise AssertionError(f"{name}: {tuple(value.shape)} in the net, {tuple(old.shape)} in the file")
    typed = value.to(old.dtype).clone(memory_format=torch.contiguous_format)
    if typed.is_floating_point() and not bool(torch.isfinite(typed.float()).all()):
        raise Problem(f"the cleaned tensor `{name}` holds NaN or infinity as {str(old.dtype).removeprefix('torch.')}")
    return typed
