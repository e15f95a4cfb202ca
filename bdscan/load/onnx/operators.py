"""What each ONNX operator without weights computes, as a function of its attributes and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bdscan.load.onnx import shapes
from bdscan.load.onnx.shapes import Attributes, ints

Result = Tensor | tuple[Tensor, ...]
Function = Callable[..., Result]

_FLOATS = (1, 10, 11, 16)  # TensorProto.FLOAT, FLOAT16, DOUBLE, BFLOAT16: all are float32 here
_CASTS = {9: torch.bool, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64}


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def both(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
        device = a.device if a.numel() >= b.numel() else b.device
        return function(a.to(device), b.to(device))

    return both


def _each(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda _, x: function(x)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def over(_: Attributes, *values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = function(total, value)
        return total

    return over


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def over(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = ints(axes, a.get("axes"))
        if not chosen and a.get("noop_with_empty_axes"):
            return x
        return function(x, chosen or list(range(x.dim())), bool(a.get("keepdims", 1)))

    return over


def softmax(a: Attributes, x: Tensor) -> Tensor:
    if a["opset"] >= 13:
        return x.softmax(a.get("axis", -1))
    axis = a.get("axis", 1) % x.dim()  # before opset 13: over everything from the axis on
    return x.flatten(axis).softmax(-1).reshape(x.shape)


def log_softmax(a: Attributes, x: Tensor) -> Tensor:
    return softmax(a, x).log()


def clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bottom = low.item() if low is not None else a.get("min")
    top = high.item() if high is not None else a.get("max")
    return x.clamp(bottom, top) if bottom is not None or top is not None else x


def cast(a: Attributes, x: Tensor, *_: Tensor) -> Tensor:
    return x.float() if a["to"] in _FLOATS else x.to(_CASTS[a["to"]])


def where(_: Attributes, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    device = max((condition, a, b), key=Tensor.numel).device
    return torch.where(condition.to(device), a.to(device), b.to(device))


def _constant(a: Attributes) -> Tensor:
    if "value" in a:
        return a["value"]  # type: ignore[no-any-return]
    name = next(name for name in ("value_float", "value_floats", "value_int", "value_ints") if name in a)
    return torch.tensor(a[name], dtype=torch.float32 if "float" in name else torch.int64)


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    alpha, beta = float(a.get("alpha", 0.2)), float(a.get("beta", 0.5))
    return (alpha * x + beta).clamp(0, 1)


OPERATORS: Mapping[str, Function] = {
    "Abs": _each(torch.abs),
    "Add": _pair(torch.add),
    "And": _pair(torch.logical_and),
    "Cast": cast,
    "CastLike": lambda _, x, like: x.to(like.dtype),
    "Ceil": _each(torch.ceil),
    "Clip": clip,
    "Concat": shapes.concat,
    "Constant": _constant,
    "ConstantOfShape": shapes.constant_of_shape,
    "Div": _pair(_divide),
    "Equal": _pair(torch.eq),
    "Erf": _each(torch.erf),
    "Exp": _each(torch.exp),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": _each(torch.floor),
    "Gather": shapes.gather,
    "Greater": _pair(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "Identity": _each(lambda x: x),
    "Less": _pair(torch.lt),
    "Log": _each(torch.log),
    "LogSoftmax": log_softmax,
    "MatMul": _pair(torch.matmul),
    "Max": _fold(torch.maximum),
    "Min": _fold(torch.minimum),
    "Mod": lambda a, x, y: torch.fmod(x, y) if a.get("fmod") else torch.remainder(x, y),
    "Mul": _pair(torch.mul),
    "Neg": _each(torch.neg),
    "Not": _each(torch.logical_not),
    "PRelu": _pair(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pad": shapes.pad,
    "Pow": _pair(_power),
    "Range": shapes.range_,
    "Reciprocal": _each(torch.reciprocal),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Slice": shapes.slice_,
    "Softmax": softmax,
    "Split": shapes.split,
    "Sqrt": _each(torch.sqrt),
    "Squeeze": shapes.squeeze,
    "Sub": _pair(torch.sub),
    "Sum": _fold(torch.add),
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
    "Where": where,
}
