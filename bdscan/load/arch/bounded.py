"""A net that nobody has run yet, run within bounds: memory and work are known before an operation begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from bdscan.facts.deadline import check_time

_NUMBERS_PER_POSITION = 512  # in one tensor, for one image: wide nets keep 320 channels at full size
_ALWAYS_ALLOWED = 1 << 20  # numbers for one image, however small: a million classes
_MAX_NUMBERS = 1 << 28  # in one tensor: 1 GB
# Native code cannot be interrupted. A VGG takes 2^33 at 224 pixels, and 2^37 at 1024; a core does 2^35 a second or so.
_MAX_STEP = 1 << 39  # floating-point operations in one call
_MAX_WORK = 1 << 43  # in all
_WORK_PER_NUMBER = 16  # what a number costs that is only written, in such operations
# What gives a tensor as large as its first argument (and, where it normalises, two small ones).
AS_LARGE = frozenset(
    {
        *("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "softmax", "_softmax", "relu"),
        *("relu6", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh", "elu"),
    }
)
_POOLS = ("avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")


class OutOfProportion(ValueError):
    """What is asked for is far more than any classifier needs."""


def largest_tensor(shape: Sequence[int], batch: int) -> int:
    """Numbers that one tensor may hold when so many images of (channels, height, width) pass a net."""
    each = max(_ALWAYS_ALLOWED, _NUMBERS_PER_POSITION * math.prod(shape[1:]))
    return min(_MAX_NUMBERS, batch * each)


class Bounded(TorchDispatchMode):
    """While it lasts, no operation of torch makes a tensor of more than `largest` numbers, or too many of them.

    The sizes are worked out first, on tensors without memory.
    """

    def __init__(self, largest: int, altogether: float = math.inf) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest, self.altogether, self.work = largest, altogether, _MAX_WORK

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        check_time()
        if _allocates(func) and not _on_meta(args, kwargs):
            self._weigh(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _weigh(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if func._overloadpacket.__name__ in AS_LARGE and isinstance(args[0], Tensor):
            self._count([args[0].numel()], _WORK_PER_NUMBER * args[0].numel())
            return
        if _takes_device(func):
            kwargs = {**kwargs, "device": "meta"}
        args, kwargs = tree_map_only(Tensor, _without_memory, (args, dict(kwargs)))
        try:
            result = func(*args, **kwargs)
        except Exception:  # noqa: BLE001 - it has no size before it runs, or will say itself what is wrong
            return
        sizes = [part.numel() for part in tree_leaves(result) if isinstance(part, Tensor)]
        self._count(sizes, _work(func, args, kwargs, result) + _WORK_PER_NUMBER * sum(sizes))

    def _count(self, sizes: Sequence[int], work: int) -> None:
        self.altogether -= sum(sizes)
        self.work -= work
        if max(sizes, default=0) > self.largest or self.altogether < 0:
            raise OutOfProportion(f"a tensor of {max(sizes):,} numbers is out of proportion")
        if work > _MAX_STEP or self.work < 0:
            raise OutOfProportion(f"{work:,} operations in one step are out of proportion")


def _on_meta(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether it is without memory anyway, as the parameters are while a net is built."""
    device = (kwargs or {}).get("device")
    if device is None and args and isinstance(args[0], Tensor):
        device = args[0].device
    return getattr(device, "type", "") == "meta"


@cache
def _allocates(func: Any) -> bool:
    """Views and what works in place do not; `_unsafe_view` is a view that does not say so."""
    fresh = any(returned.alias_info is None for returned in func._schema.returns)
    return fresh and func is not torch.ops.aten._unsafe_view.default


@cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def _without_memory(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _work(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    """Floating-point operations of what does more than write its result."""
    packet = func._overloadpacket
    if packet.__name__ in _POOLS:
        first = result[0] if isinstance(result, tuple) else result
        return int(first.numel() * math.prod(args[1]))
    count: Callable[..., Any] | None = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=result)) if count is not None else 0
