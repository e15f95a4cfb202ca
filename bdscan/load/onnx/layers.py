"""ONNX operators that are layers in torch, above all those with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bdscan.load.onnx.graph import Node
from bdscan.load.onnx.operators import bounds
from bdscan.load.onnx.padding import InnerAveragePool, int_list, padding

Constants = Sequence[Tensor | None]  # one for each input of the node; None: only known when the net runs
LayerFactory = Callable[[Node, Constants], nn.Module | None]  # None: no such layer with these arguments


class AnyBatchNorm(nn.BatchNorm2d):
    """ONNX does not say how many dimensions a batch norm normalises."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def conv(node: Node, constants: Constants) -> nn.Module | None:
    weight, bias = constants[1], _optional(constants, 2)
    if weight is None or weight.dim() != 4 or (len(node.inputs) > 2 and node.inputs[2] and bias is None):
        return None
    even, groups = padding(node, weight.shape[2:]), int(node.attributes.get("group", 1))
    layer: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d,
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(int_list(node, "strides", 1, 2)),
        padding=even or 0,
        dilation=tuple(int_list(node, "dilations", 1, 2)),
        groups=groups,
        bias=bias is not None,
    )
    _fill_in(layer, weight=weight, bias=bias)
    return layer


def batch_norm(node: Node, constants: Constants) -> nn.Module | None:
    scale, bias, mean, variance = constants[1:5]
    if scale is None or bias is None or mean is None or variance is None or node.attributes.get("training_mode"):
        return None
    layer = AnyBatchNorm(len(scale), eps=node.attributes.get("epsilon", 1e-5))
    _fill_in(layer, weight=scale, bias=bias, running_mean=mean, running_var=variance)
    return layer


def layer_norm(node: Node, constants: Constants) -> nn.Module | None:
    scale, bias = constants[1], _optional(constants, 2)
    axis = node.attributes.get("axis", -1)
    if scale is None or axis > 0 or len(node.outputs) > 1 or scale.dim() != -axis:
        return None
    layer = nn.LayerNorm(tuple(scale.shape), eps=node.attributes.get("epsilon", 1e-5), bias=bias is not None)
    _fill_in(layer, weight=scale, bias=bias)
    return layer


def gemm(node: Node, constants: Constants) -> nn.Module | None:
    weight, bias, a = constants[1], _optional(constants, 2), node.attributes
    unknown = len(node.inputs) > 2 and node.inputs[2] and bias is None
    if weight is None or weight.dim() != 2 or a.get("transA") or unknown:
        return None
    weight = (weight if a.get("transB") else weight.T) * a.get("alpha", 1.0)
    if bias is not None:
        if bias.dim() == 2 and bias.shape[0] != 1:
            return None
        bias = (bias * a.get("beta", 1.0)).reshape(-1).expand(len(weight))
    return linear(weight, bias)


def matmul(node: Node, constants: Constants) -> nn.Module | None:
    weight = constants[1]
    return linear(weight.T, None) if weight is not None and weight.dim() == 2 else None


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill_in(layer, weight=weight, bias=bias)
    return layer


def max_pool(node: Node, _: Constants) -> nn.Module | None:
    kernel = node.attributes["kernel_shape"]
    if len(kernel) != 2 or len(node.outputs) > 1:
        return None
    return nn.MaxPool2d(
        tuple(kernel),
        stride=tuple(int_list(node, "strides", 1, 2)),
        padding=padding(node, kernel) or 0,
        dilation=tuple(int_list(node, "dilations", 1, 2)),
        ceil_mode=bool(node.attributes.get("ceil_mode")),
    )


def average_pool(node: Node, _: Constants) -> nn.Module | None:
    kernel, counted = node.attributes["kernel_shape"], bool(node.attributes.get("count_include_pad"))
    even, ceiling = padding(node, kernel), bool(node.attributes.get("ceil_mode"))
    if len(kernel) != 2 or any(i != 1 for i in int_list(node, "dilations", 1, 2)):
        return None
    if even is None and not counted:
        return None if ceiling else InnerAveragePool(node, kernel)
    (down, right), (top, left) = int_list(node, "strides", 1, 2), even or (0, 0)
    return nn.AvgPool2d(
        tuple(kernel), stride=(down, right), padding=(top, left), ceil_mode=ceiling, count_include_pad=counted
    )


def instance_norm(node: Node, constants: Constants) -> nn.Module | None:
    scale, bias = constants[1:3]
    if scale is None or bias is None:
        return None
    layer = nn.InstanceNorm2d(len(scale), eps=node.attributes.get("epsilon", 1e-5), affine=True)
    _fill_in(layer, weight=scale, bias=bias)
    return layer


def group_norm(node: Node, constants: Constants) -> nn.Module | None:
    scale, bias = constants[1:3]
    groups = int(node.attributes["num_groups"])
    if scale is None or bias is None or (node.attributes["opset"] < 21 and len(scale) == groups):
        return None  # first one number a group; each channel its own only where that is the same
    layer = nn.GroupNorm(groups, len(scale), eps=node.attributes.get("epsilon", 1e-5))
    _fill_in(layer, weight=scale, bias=bias)
    return layer


def local_norm(node: Node, _: Constants) -> nn.Module | None:
    a = node.attributes
    if a["size"] % 2 == 0:  # of which torch puts the odd one on the other side
        return None
    return nn.LocalResponseNorm(a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))


def clip(node: Node, constants: Constants) -> nn.Module | None:
    """Only the one that torch has a name for; the general case is an operator."""
    return nn.ReLU6() if bounds(node.attributes, *constants[1:3]) == [0, 6] else None


def flatten(node: Node, _: Constants) -> nn.Module | None:
    return nn.Flatten(1) if node.attributes.get("axis", 1) == 1 else None


def hard_sigmoid(node: Node, _: Constants) -> nn.Module | None:
    same = abs(node.attributes.get("alpha", 0.2) - 1 / 6) < 1e-6 and node.attributes.get("beta", 0.5) == 0.5
    return nn.Hardsigmoid() if same else None


def dropout(node: Node, constants: Constants) -> nn.Module | None:
    mode = _optional(constants, 2)
    return None if mode is not None and bool(mode.any()) else nn.Identity()


def _optional(constants: Constants, place: int) -> Tensor | None:
    return constants[place] if place < len(constants) else None


def _fill_in(module: nn.Module, **tensors: Tensor | None) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor is not None:
                parameter = getattr(module, name)
                if parameter.shape != tensor.shape:
                    raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
                parameter.copy_(tensor)


LAYERS: Mapping[str, LayerFactory] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Celu": lambda node, _: nn.CELU(node.attributes.get("alpha", 1.0)),
    "Clip": clip,
    "Conv": conv,
    "Dropout": dropout,
    "Elu": lambda node, _: nn.ELU(node.attributes.get("alpha", 1.0)),
    "Flatten": flatten,
    "Gelu": lambda node, _: nn.GELU(node.attributes.get("approximate", "none")),
    "Gemm": gemm,
    "GlobalAveragePool": lambda *_: nn.AdaptiveAvgPool2d(1),
    "GlobalMaxPool": lambda *_: nn.AdaptiveMaxPool2d(1),
    "GroupNormalization": group_norm,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": lambda *_: nn.Hardswish(),
    "Identity": lambda *_: nn.Identity(),
    "InstanceNormalization": instance_norm,
    "LRN": local_norm,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda node, _: nn.LeakyReLU(node.attributes.get("alpha", 0.01)),
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Mish": lambda *_: nn.Mish(),
    "Relu": lambda *_: nn.ReLU(),
    "Selu": lambda *_: nn.SELU(),
    "Sigmoid": lambda *_: nn.Sigmoid(),
    "Softplus": lambda *_: nn.Softplus(),
    "Softsign": lambda *_: nn.Softsign(),
    "Swish": lambda node, _: nn.SiLU() if node.attributes.get("alpha", 1.0) == 1.0 else None,
    "Tanh": lambda *_: nn.Tanh(),
    "ThresholdedRelu": lambda node, _: nn.Threshold(node.attributes.get("alpha", 1.0), 0.0),
    "com.microsoft.Gelu": lambda *_: nn.GELU(),
}
