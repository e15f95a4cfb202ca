"""Operators that are layers in torch where their weights are the file's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bdscan.load.graph.record import Operation, Ref

Arguments = Mapping[str, Any]  # of an operator, by torch's own names
Hold = Callable[[Tensor], Tensor]  # the parameter or the buffer for a tensor: one for all its uses


def layer(operation: Operation, parameter: Hold, buffer: Hold) -> nn.Module | None:
    """The layer that does the same; None where there is none with these arguments."""
    make = _LAYERS.get(operation.op)
    a = _by_name(operation) if make is not None else {}
    first = next(iter(a.values()), None)
    if make is None or not isinstance(first, Ref) or any(map(_has_ref, list(a.values())[1:])):
        return None
    made = make(a, first.rank)
    if made is None or isinstance(made, nn.Module):
        return made
    module, tensors = made
    for name, tensor in tensors.items():
        if tensor is not None:
            is_buffer = name in dict(module.named_buffers())
            setattr(module, name, buffer(tensor) if is_buffer else parameter(tensor))
    return module


def input_of(operation: Operation) -> Ref:
    """What goes into the layer."""
    first = next(iter(_by_name(operation).values()))
    assert isinstance(first, Ref)
    return first


Made = nn.Module | tuple[nn.Module, dict[str, Tensor | None]] | None


def _by_name(operation: Operation) -> Arguments:
    """The arguments under the names of the first overload that has room for them, and its defaults; `x` comes first."""
    packet = getattr(torch.ops.aten, operation.op)
    for overload in packet.overloads():
        listed = getattr(packet, overload)._schema.arguments
        names = [argument.name for argument in listed]
        if len(operation.arguments) <= len(names) and operation.named.keys() <= set(names):
            a = {each.name: each.default_value for each in listed if each.has_default_value()}
            a |= dict(zip(names, operation.arguments, strict=False)) | dict(operation.named)
            first = {"addmm": "mat1"}.get(operation.op, names[0])
            return {first: a[first]} | {name: a.get(name) for name in names}
    return {}


def _conv(a: Arguments, rank: int) -> Made:
    weight, bias, padding = a["weight"], a["bias"], a["padding"]
    if not isinstance(weight, Tensor) or weight.dim() != 4 or rank != 4 or a.get("transposed"):
        return None
    module = nn.Conv2d(
        weight.shape[1] * a["groups"],
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=_pair(a["stride"]),
        padding=padding if isinstance(padding, str) else _pair(padding),
        dilation=_pair(a["dilation"]),
        groups=a["groups"],
        bias=bias is not None,
        device="meta",
    )
    return module, {"weight": weight, "bias": bias}


def _linear(a: Arguments, _: int) -> Made:
    return linear(a["weight"], a["bias"])


def linear(weight: object, bias: object) -> Made:
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    if bias is not None and (not isinstance(bias, Tensor) or bias.shape != weight.shape[:1]):
        return None
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return module, {"weight": weight, "bias": bias}


def _product(a: Arguments, _: int) -> Made:
    """`x @ weight`, perhaps with `bias` beside it."""
    weight, bias = a.get("mat2", a.get("other")), a.get("bias", a.get("self") if "mat1" in a else None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or (a.get("beta", 1), a.get("alpha", 1)) != (1, 1):
        return None
    return linear(weight.t(), bias)


def _batch_norm(a: Arguments, rank: int) -> Made:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(rank)
    tensors = {name: a[name] for name in ("weight", "bias", "running_mean", "running_var")}
    if kind is None or a.get("training") or not isinstance(a["running_mean"], Tensor):
        return None
    if (a["weight"] is None) != (a["bias"] is None):
        return None
    return kind(len(a["running_mean"]), a["eps"], a["momentum"], affine=a["weight"] is not None), tensors


def _layer_norm(a: Arguments, _: int) -> Made:
    weight, bias = a["weight"], a["bias"]
    if weight is None and bias is not None:
        return None
    shape = tuple(a["normalized_shape"])
    module = nn.LayerNorm(shape, a["eps"], elementwise_affine=weight is not None, bias=bias is not None)
    return module, {"weight": weight, "bias": bias}


def _group_norm(a: Arguments, _: int) -> Made:
    if not isinstance(a["weight"], Tensor):
        return None
    return nn.GroupNorm(a["num_groups"], len(a["weight"]), a["eps"]), {"weight": a["weight"], "bias": a["bias"]}


def _prelu(a: Arguments, _: int) -> Made:
    weight = a["weight"]
    return (nn.PReLU(weight.numel()), {"weight": weight}) if isinstance(weight, Tensor) and weight.dim() == 1 else None


def _max_pool(a: Arguments, rank: int) -> Made:
    kernel, stride = _pair(a["kernel_size"]), _pair(a["stride"] or a["kernel_size"])
    module = nn.MaxPool2d(kernel, stride, _pair(a["padding"]), _pair(a["dilation"]), ceil_mode=a["ceil_mode"])
    return module if rank == 4 else None


def _average_pool(a: Arguments, rank: int) -> Made:
    kernel, stride = _pair(a["kernel_size"]), _pair(a["stride"] or a["kernel_size"])
    counted = {name: a[name] for name in ("ceil_mode", "count_include_pad", "divisor_override")}
    return nn.AvgPool2d(kernel, stride, _pair(a["padding"]), **counted) if rank == 4 else None


def _adaptive_pool(a: Arguments, rank: int) -> Made:
    return nn.AdaptiveAvgPool2d(_pair(a["output_size"])) if rank == 4 else None


def _clamp(a: Arguments, _: int) -> Made:
    """Only the one that torch has a name for."""
    bounds = tuple(a.get(name, a.get(f"{name}_val")) for name in ("min", "max"))
    return nn.ReLU6() if bounds == (0, 6) else nn.ReLU() if bounds == (0, None) else None


def _hardtanh(a: Arguments, _: int) -> Made:
    return _clamp(a, _) or nn.Hardtanh(a["min_val"], a["max_val"])


def _elu(a: Arguments, _: int) -> Made:
    return nn.ELU(a["alpha"]) if (a["scale"], a["input_scale"]) == (1, 1) else None


def _has_ref(setting: object) -> bool:
    """Whether it is only known when the net runs."""
    return any(map(_has_ref, setting)) if isinstance(setting, list | tuple) else isinstance(setting, Ref)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


_LAYERS: Mapping[str, Callable[[Arguments, int], Made]] = {
    **dict.fromkeys(("conv2d", "convolution", "_convolution", "_convolution_mode"), _conv),
    **dict.fromkeys(("addmm", "mm", "matmul"), _product),
    **dict.fromkeys(("batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("native_batch_norm",), _batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive_pool),
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout"), lambda *_: nn.Identity()),
    **dict.fromkeys(("clamp", "clamp_min"), _clamp),
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
    "avg_pool2d": _average_pool,
    "elu": _elu,
    "flatten": lambda a, _: nn.Flatten(a["start_dim"], a["end_dim"]),
    "gelu": lambda a, _: nn.GELU(a["approximate"]),
    "group_norm": _group_norm,
    "hardsigmoid": lambda *_: nn.Hardsigmoid(),
    "hardswish": lambda *_: nn.Hardswish(),
    "hardtanh": _hardtanh,
    "leaky_relu": lambda a, _: nn.LeakyReLU(a["negative_slope"]),
    "linear": _linear,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "mish": lambda *_: nn.Mish(),
    "relu": lambda *_: nn.ReLU(),
    "relu6": lambda *_: nn.ReLU6(),
    "selu": lambda *_: nn.SELU(),
    "sigmoid": lambda *_: nn.Sigmoid(),
    "silu": lambda *_: nn.SiLU(),
    "softplus": lambda a, _: nn.Softplus(a["beta"], a["threshold"]),
    "tanh": lambda *_: nn.Tanh(),
}
