"""Nets of whole pickled modules, by the layers that their records describe; their own code is not ours to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bdscan.load.arch.bounded import Bounded, largest_tensor
from bdscan.load.arch.match import without_memory
from bdscan.load.module.layers import NotVouched
from bdscan.load.module.plans import Plan, as_they_stand, plans
from bdscan.load.module.tree import Unit, named_class, parts_of
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, named

_SIDES = {1: (28, 32, 64, 48, 224), 3: (32, 224, 64, 28, 128, 96, 48, 150, 256)}  # of images in use, by channels
_MAX_TENSORS = 5000
_LIBRARIES = ("torchvision", "timm", "transformers")


def candidates(module: CallRecord, prefix: str) -> Iterator[Candidate]:
    """The one net that a Sequential of layers is; of a class of its owner, each that its layers speak for.

    `prefix` was taken off the names of the file's tensors. Raises `NotVouched` with what stands in the way.
    """
    parts = parts_of(module)
    units = parts.units
    _check(as_they_stand(units))
    if parts.certain:
        yield _candidate(as_they_stand(units), "pickled Sequential", prefix, _sides(units, None))
        return
    fitting = [(plan, side) for plan in plans(units) for side in _sides(units, plan)]
    owner, first = quoted(named(module.maker)), next((side for _, side in fitting), None)
    if first is None:
        raise NotVouched(f"the layers of {owner} fit together in no usual order")
    for plan, side in fitting:
        if side == first:
            yield _candidate(plan, f"the layers of {owner}", prefix, (side,))


def known_elsewhere(module: CallRecord) -> bool:
    """Whether its tensors say more than its layers: it is a library's, or has parts of classes of its own."""
    return named_class(module).partition(".")[0] in _LIBRARIES or parts_of(module).nested


def _check(plan: Plan) -> None:
    """That each layer can be made, before it is asked what they may be together."""
    if not plan.steps:
        raise NotVouched("it has no layers")
    try:
        without_memory(Candidate(name="", build=plan.build), _MAX_TENSORS)
    except NotVouched:
        raise
    except NOT_SUCH_A_NET:
        raise NotVouched("its layers cannot be made") from None


def _candidate(plan: Plan, name: str, prefix: str, sides: Sequence[int]) -> Candidate:
    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {prefix + key: tensor for key, tensor in tensors.items()}

    return Candidate(
        name=name,
        build=plan.build,
        sizes=tuple(sides),
        variant=plan.assumed,
        convert=convert if prefix else None,
        inferred=bool(plan.assumed),
    )


def _sides(parts: Sequence[Unit], plan: Plan | None) -> tuple[int, ...]:
    """Sides of the images that the plan takes; without one, those in use."""
    sides = _SIDES.get(_channels(parts), _SIDES[3])
    if plan is None:
        return sides
    net = _skeleton(plan)
    return tuple(side for side in sides if net is not None and _runs(net, _channels(parts), side))


def _channels(parts: Sequence[Unit]) -> int:
    """Of the images, as the first convolution has them; a linear layer's row is told by the sizes."""
    for part in parts:
        for layer in part.layers:
            if isinstance(layer.state, dict) and isinstance(channels := layer.state.get("in_channels"), int):
                return channels
    return 1


def _skeleton(plan: Plan) -> nn.Module | None:
    candidate = Candidate(name="", build=plan.build)
    try:
        return without_memory(candidate, _MAX_TENSORS).to("meta").eval()
    except NOT_SUCH_A_NET:
        return None


def _runs(net: nn.Module, channels: int, side: int) -> bool:
    shape = (channels, side, side)
    try:
        with torch.no_grad(), Bounded(largest_tensor(shape, 2)):
            answer = net(torch.empty(2, *shape, device="meta"))
    except (*NOT_SUCH_A_NET, MemoryError):
        return False
    return isinstance(answer, Tensor) and answer.dim() == 2
