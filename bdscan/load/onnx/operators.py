"""What each ONNX operator without weights computes, as a function of its attributes and its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import reduce
from itertools import zip_longest

import torch
from torch import Tensor

from bdscan.load.onnx import quantised, resize, shapes
from bdscan.load.onnx.shapes import Attributes, ints

Result = Tensor | tuple[Tensor, ...]
Function = Callable[..., Result]

_FLOATS = (1, 10, 11, 16)  # TensorProto.FLOAT, FLOAT16, DOUBLE, BFLOAT16: all are float32 here
_CASTS = {9: torch.bool, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64}


def _together(function: Callable[..., Tensor]) -> Function:
    """On the device of the largest."""

    def on_one_device(_: Attributes, *values: Tensor) -> Tensor:
        device = max(values, key=Tensor.numel).device
        return function(*(value.to(device) for value in values))

    return on_one_device


def _each(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda _, x: function(x)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda _, *values: reduce(function, values)


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


def bounds(a: Attributes, *inputs: Tensor | None) -> list[float | None]:
    """The lower and the upper one of a clip; None: there is none."""
    pairs = zip_longest(("min", "max"), inputs)
    return [value.item() if value is not None else a.get(name) for name, value in pairs]


def clip(a: Attributes, x: Tensor, *inputs: Tensor | None) -> Tensor:
    low, high = bounds(a, *inputs)
    return x if low is None and high is None else x.clamp(low, high)


def cast(a: Attributes, x: Tensor, *_: Tensor) -> Tensor:
    return x.float() if a["to"] in _FLOATS else x.to(_CASTS[a["to"]])


def _constant(a: Attributes) -> Tensor:
    if "value" in a:
        return a["value"]  # type: ignore[no-any-return]
    name = next(name for name in ("value_float", "value_floats", "value_int", "value_ints") if name in a)
    return torch.tensor(a[name], dtype=torch.float32 if "float" in name else torch.int64)


def rms_norm(a: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(a.get("axis", -1) % x.dim(), x.dim()))
    length: Tensor = (x.square().mean(axes, keepdim=True) + a.get("epsilon", 1e-5)).rsqrt()
    return x * length * scale


def einsum(a: Attributes, *values: Tensor) -> Tensor:
    equation: str = a["equation"].replace(" ", "")
    if not re.fullmatch(r"[a-zA-Z,.>-]{1,100}", equation):
        raise ValueError("an equation of other signs than letters")
    result: Tensor = torch.einsum(equation, *values)
    return result


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def trilu(a: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    return (torch.triu if a.get("upper", 1) else torch.tril)(x, int(k.item()) if k is not None else 0)


OPERATORS: Mapping[str, Function] = {
    "Abs": _each(torch.abs),
    "Add": _together(torch.add),
    "And": _together(torch.logical_and),
    "Cast": cast,
    "CastLike": lambda _, x, like: x.to(like.dtype),
    "Ceil": _each(torch.ceil),
    "Clip": clip,
    "Concat": shapes.concat,
    "Constant": _constant,
    "ConstantOfShape": shapes.constant_of_shape,
    "Cos": _each(torch.cos),
    "DepthToSpace": resize.depth_to_space,
    "DequantizeLinear": quantised.dequantize,
    "Div": _together(_divide),
    "DynamicQuantizeLinear": quantised.dynamic,
    "Einsum": einsum,
    "Equal": _together(torch.eq),
    "Erf": _each(torch.erf),
    "Exp": _each(torch.exp),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": _each(torch.floor),
    "Gather": shapes.gather,
    "GlobalLpPool": lambda a, x: torch.linalg.vector_norm(x, a.get("p", 2), tuple(range(2, x.dim())), keepdim=True),
    "Greater": _together(torch.gt),
    "GreaterOrEqual": _together(torch.ge),
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "Identity": _each(lambda x: x),
    "IsNaN": _each(torch.isnan),
    "Less": _together(torch.lt),
    "LessOrEqual": _together(torch.le),
    "Log": _each(torch.log),
    "LogSoftmax": lambda a, x: softmax(a, x).log(),
    "LpNormalization": lambda a, x: x / torch.linalg.vector_norm(x, a.get("p", 2), a.get("axis", -1), keepdim=True),
    "MatMul": _together(torch.matmul),
    "Max": _fold(torch.maximum),
    "Mean": lambda _, *values: reduce(torch.add, values) / len(values),
    "Min": _fold(torch.minimum),
    "Mod": lambda a, x, y: torch.fmod(x, y) if a.get("fmod") else torch.remainder(x, y),
    "Mul": _together(torch.mul),
    "Neg": _each(torch.neg),
    "Not": _each(torch.logical_not),
    "Or": _together(torch.logical_or),
    "PRelu": _together(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pad": shapes.pad,
    "Pow": _together(lambda a, b: torch.pow(a, b).to(a.dtype)),
    "QuantizeLinear": quantised.quantize,
    "RMSNormalization": rms_norm,
    "Range": shapes.range_,
    "Reciprocal": _each(torch.reciprocal),
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceLogSum": _reduced(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _reduced(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Reshape": shapes.reshape,
    "Resize": resize.resize,
    "Round": _each(torch.round),
    "Shape": shapes.shape,
    "Shrink": lambda a, x: torch.where(x.abs() > a.get("lambd", 0.5), x - x.sign() * a.get("bias", 0.0), 0.0 * x),
    "Sign": _each(torch.sign),
    "Sin": _each(torch.sin),
    "Size": lambda _, x: torch.tensor(x.numel()),
    "Slice": shapes.slice_,
    "Softmax": softmax,
    "SpaceToDepth": resize.space_to_depth,
    "Split": shapes.split,
    "Sqrt": _each(torch.sqrt),
    "Squeeze": shapes.squeeze,
    "Sub": _together(torch.sub),
    "Sum": _fold(torch.add),
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Trilu": trilu,
    "Unsqueeze": shapes.unsqueeze,
    "Upsample": resize.upsample,
    "Where": _together(torch.where),
    "WithoutZero": quantised.without_zero,
    "Xor": _together(torch.logical_xor),
    "com.microsoft.DequantizeLinear": quantised.dequantize,
    "com.microsoft.QuantizeLinear": quantised.quantize,
}
