"""Where each number of a net stands in a file whose reader transposes, joins and spreads the arrays in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem, unusable
from bdscan.load.nets.candidate import BATCH_COUNTER

DIGIT = 1 << 24  # float32 counts no further; the number of a number is therefore sent in two digits


def numbers(start: int, count: int, digit: int) -> Tensor:
    """The lower digit of so many places, or the higher; from one on, for zeros are made in many places."""
    places = torch.arange(start, start + count) + 1
    return (places // DIGIT if digit else places % DIGIT).float()


def index_of(
    net: nn.Module, flat: Tensor, numbered: Callable[[int], Mapping[str, Tensor]], path: object
) -> dict[str, Tensor]:
    """For each tensor of the net: places among the numbers of the file, laid end to end.

    Numbered instead of weighty arrays go through the same door that the weights came in by (`numbered`, for either
    digit): however the reader turned them, the numbers say where each came from.
    """
    low, high = (numbered(digit) for digit in (0, 1))
    state, index = net.state_dict(), {}
    for name in low if len(flat) else ():
        place = high[name].double() * DIGIT + low[name].double() - 1
        integral = (place == place.round()) & (place >= 0) & (place < len(flat))
        if name in state and bool(integral.all()) and torch.equal(flat[place.long()], state[name].float().cpu()):
            index[name] = place.long()
    untraced = [name for name, value in net.named_parameters() if value.numel() > 1 and name not in index]
    if untraced:
        message = f"`{path}` works out its tensor `{untraced[0]}` from others, so it cannot be written back"
        raise unusable(message, "give the checkpoint that it was made from")
    return index


def with_state(
    flat: Tensor, index: Mapping[str, Tensor], state: Mapping[str, Tensor], old: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The numbers of the file with the net's in their places, and which of them are the net's."""
    flat, changed = flat.clone(), torch.zeros(len(flat), dtype=torch.bool)
    values = {name: value.detach().cpu() for name, value in state.items()}
    for name, places in index.items():
        flat[places] = values[name].float()
        changed[places] = True
    others = [name for name in values if name not in index and not name.endswith(BATCH_COUNTER)]
    misplaced = [name for name in others if not torch.equal(values[name], old[name].cpu())]
    if misplaced:
        raise Problem(f"the cleaned tensor `{misplaced[0]}` has no place of its own in the file")
    if any(not torch.equal(flat[places], values[name].float()) for name, places in index.items()):
        raise Problem("one tensor of the file stands for two layers that are no longer alike")
    return flat, changed
