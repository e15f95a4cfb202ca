"""ONNX operators that move numbers about, or make some out of a shape, without changing any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = Mapping[str, Any]

# Numbers in a tensor that a file asks for by its shape alone; what it makes of one batch may grow with the next.
_MAX_NUMBERS = 1 << 26
_MAX_ARGUMENTS = 1 << 12  # sizes, axes or indices: as many as nobody has axes or parts


def ints(value: Tensor | None, otherwise: Any = None) -> list[int]:
    """An argument that is an input since some version of ONNX and was an attribute before."""
    if value is not None:
        if value.numel() > _MAX_ARGUMENTS:
            raise ValueError(f"a list of {value.numel():,} sizes is out of proportion")
        return [int(i) for i in value.flatten().tolist()]
    return list(otherwise or ())


def concat(a: Attributes, *values: Tensor) -> Tensor:
    axis = a["axis"] % values[0].dim()
    if axis:  # a class token written for a batch of one
        batch = max(value.shape[0] for value in values)
        values = tuple(v.expand(batch, *v.shape[1:]) if v.shape[0] == 1 else v for v in values)
    return torch.cat(values, axis)


def reshape(a: Attributes, x: Tensor, shape: Tensor | None = None) -> Tensor:
    target = ints(shape, a.get("shape"))
    if not a.get("allowzero"):
        target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return x.reshape(target)


def flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1) % (x.dim() + 1)
    return x.reshape(math.prod(x.shape[:axis]), -1) if axis != 1 else x.flatten(1)


def transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm") or list(range(x.dim()))[::-1])


def squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    batch = x.dim() > 1  # squeezing everything spares a batch of one image
    chosen = ints(axes, a.get("axes")) or [i for i, size in enumerate(x.shape) if size == 1 and not (batch and i == 0)]
    return x.squeeze(tuple(chosen))


def unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = ints(axes, a.get("axes"))
    for axis in sorted(axis % (x.dim() + len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def pad(
    a: Attributes, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    amounts = ints(pads, a.get("pads"))
    half = len(amounts) // 2
    pairs = dict(
        zip((i % x.dim() for i in ints(axes, range(half))), zip(amounts, amounts[half:], strict=False), strict=True)
    )
    flat = [side for axis in reversed(range(x.dim())) for side in pairs.get(axis, (0, 0))]
    check_size([1, *(size + sum(pairs.get(axis, (0, 0))) for axis, size in enumerate(x.shape[1:], 1))])
    mode = a.get("mode", "constant")
    if mode == "constant":
        return F.pad(x, flat, value=value.item() if value is not None and value.numel() else a.get("value", 0.0))
    while len(flat) > 4 and flat[-2:] == [0, 0]:  # torch mirrors at most the last axes
        flat = flat[:-2]
    return F.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate"}[mode])


def slice_(
    a: Attributes,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = ints(starts, a.get("starts")), ints(ends, a.get("ends"))
    where = ints(axes, a.get("axes") or range(len(first)))
    for start, end, axis, step in zip(first, last, where, ints(steps, [1] * len(first)), strict=True):
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
        else:
            chosen = range(x.shape[axis])[slice(start, None if end < -x.shape[axis] else end, step)]
            index = torch.arange(len(chosen), device=x.device) * step + (chosen.start if len(chosen) else 0)
            x = x.index_select(axis, index)
    return x


def gather(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    index = index.to(x.device).long()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, target = a.get("axis", 0), ints(sizes, a.get("split"))
    parts = a["outputs"]
    pieces: tuple[Tensor, ...] = x.split(target or math.ceil(x.shape[axis] / parts), axis)
    return pieces


def shape(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end", x.dim())], dtype=torch.int64)


def expand(_: Attributes, x: Tensor, size: Tensor) -> Tensor:
    target = torch.broadcast_shapes(x.shape, tuple(ints(size)))
    check_size(target)
    return x.expand(target)


def constant_of_shape(a: Attributes, size: Tensor) -> Tensor:
    check_size(ints(size))
    value: Tensor = a.get("value", torch.zeros(1))
    return value.reshape(()).expand(ints(size)).clone()


def range_(_: Attributes, start: Tensor, stop: Tensor, step: Tensor) -> Tensor:
    check_size([math.ceil((stop.item() - start.item()) / step.item())])
    return torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)


def tile(_: Attributes, x: Tensor, times: Tensor) -> Tensor:
    check_size([x.numel(), *ints(times)])
    return x.repeat(ints(times))


def check_size(size: Sequence[int]) -> None:
    if math.prod(size) > _MAX_NUMBERS:
        raise ValueError(f"a tensor of {tuple(size)} is out of proportion")
