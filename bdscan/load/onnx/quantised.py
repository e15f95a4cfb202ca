"""Graphs whose numbers are rounded to a few bits: the same rounding on floating-point numbers, with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bdscan.load.onnx.graph import MADE_HERE, Node

_RANGES = {
    torch.uint8: (0, 2**8 - 1),
    torch.int8: (-(2**7), 2**7 - 1),
    torch.uint16: (0, 2**16 - 1),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}
_TYPES = {2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32}  # TensorProto's numbers


def quantize(a: Mapping[str, Any], x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Whole numbers, kept as floating-point ones; the gradient goes through as if nothing were rounded."""
    low, high = _RANGES[zero.dtype if zero is not None else _TYPES[a.get("output_dtype") or 2]]
    rounded = _rounded(x / _along(a, scale, x)) + (_along(a, zero, x) if zero is not None else 0)
    return rounded.clamp(low, high)


def dequantize(a: Mapping[str, Any], x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    shifted = x.float() - _along(a, zero, x) if zero is not None else x.float()
    return shifted * _along(a, scale, x)


def dynamic(_: Mapping[str, Any], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounded by the range of each image: what the graph does to one image alone."""
    axes = tuple(range(1, x.dim()))
    low, high = (x.detach().amin(axes, True).clamp(max=0), x.detach().amax(axes, True).clamp(min=0))
    scale = ((high - low) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero = (-low / scale).round().clamp(0, 255)
    return (_rounded(x / scale) + zero).clamp(0, 255), scale, zero


def _rounded(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _along(a: Mapping[str, Any], part: Tensor, x: Tensor) -> Tensor:
    """One number for all, or one for each place on an axis."""
    if a.get("block_size"):
        raise ValueError("numbers quantised in blocks")
    part = part.to(x.device).float()
    if part.dim() == 1 and part.numel() > 1:
        return part.reshape([-1 if i == a.get("axis", 1) % x.dim() else 1 for i in range(x.dim())])
    return part.reshape(()) if part.numel() == 1 else part


class _Parts:
    """Writes what one node stands for as several."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The value that comes out."""
        name = f"{self.node.outputs[0]}{MADE_HERE}{len(self.nodes)}"
        own = {"opset": self.node.attributes["opset"], **attributes}
        self.nodes.append(Node(f"{self.node.name}_{op}", op, tuple(inputs), (name,), own))
        return name

    def read(self, place: int, axis: int = 1) -> str:
        """The value at this place in full: its scale and its zero stand behind it."""
        return self.add("DequantizeLinear", self.node.inputs[place : place + 3], axis=axis)

    def write(self, value: str, place: int) -> list[Node]:
        """The last value as the node's own, rounded by the scale and the zero that stand at this place, if any."""
        behind = self.node.inputs[place : place + 2]
        op, inputs = ("QuantizeLinear", (value, *behind)) if behind and behind[0] else ("Identity", (value,))
        self.nodes.append(
            Node(self.node.name, op, inputs, self.node.outputs, {"opset": self.node.attributes["opset"], "axis": 1})
        )
        return self.nodes


def _own(node: Node, *left_out: str) -> Mapping[str, Any]:
    return {key: value for key, value in node.attributes.items() if key not in ("opset", *left_out)}


def _conv(node: Node) -> list[Node]:
    parts = _Parts(node)
    inputs = [parts.read(0), parts.read(3, axis=0)]
    if len(node.inputs) > 8 and node.inputs[8]:
        scale = parts.add("Mul", (node.inputs[1], node.inputs[4]))
        inputs.append(parts.add("DequantizeLinear", (node.inputs[8], scale), axis=0))
    return parts.write(parts.add("Conv", inputs, **_own(node)), 6)


def _matmul(node: Node) -> list[Node]:
    parts = _Parts(node)
    return parts.write(parts.add("MatMul", (parts.read(0), parts.read(3, axis=-1))), 6)


def _gemm(node: Node) -> list[Node]:
    parts = _Parts(node)
    inputs = [parts.read(0), parts.read(3, axis=0 if node.attributes.get("transB") else 1)]
    if node.inputs[6]:
        scale = parts.add("Mul", (node.inputs[1], node.inputs[4]))
        inputs.append(parts.add("DequantizeLinear", (node.inputs[6], scale), axis=0))
    return parts.write(parts.add("Gemm", inputs, **_own(node)), 7)


def _of_two(op: str) -> Callable[[Node], list[Node]]:
    def expand(node: Node) -> list[Node]:
        parts = _Parts(node)
        return parts.write(parts.add(op, (parts.read(0), parts.read(3))), 6)

    return expand


def _of_one(op: str) -> Callable[[Node], list[Node]]:
    def expand(node: Node) -> list[Node]:
        if node.attributes.get("channels_last"):
            return [node]
        parts = _Parts(node)
        return parts.write(parts.add(op, (parts.read(0),), **_own(node, "channels_last")), 3)

    return expand


def _concat(node: Node) -> list[Node]:
    parts = _Parts(node)
    inputs = [parts.read(place) for place in range(2, len(node.inputs), 3)]
    return parts.write(parts.add("Concat", inputs, **_own(node)), 0)


def _integers(op: str, axis: int) -> Callable[[Node], list[Node]]:
    """Sums of whole numbers, of which the zeros are taken off first."""

    def expand(node: Node) -> list[Node]:
        parts, inputs = _Parts(node), []
        for place in (0, 1):
            zero = node.inputs[2 + place] if len(node.inputs) > 2 + place else ""
            inputs.append(parts.add("WithoutZero", (node.inputs[place], *filter(None, [zero])), axis=axis * place))
        return parts.write(parts.add(op, inputs, **_own(node)), len(node.inputs))

    return expand


def without_zero(a: Mapping[str, Any], x: Tensor, zero: Tensor | None = None) -> Tensor:
    return x.float() - _along(a, zero, x) if zero is not None else x.float()


_EXPANDED: Mapping[str, Callable[[Node], list[Node]]] = {
    "ConvInteger": _integers("Conv", 0),
    "MatMulInteger": _integers("MatMul", -1),
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "com.microsoft.QGemm": _gemm,
    "com.microsoft.QLinearAdd": _of_two("Add"),
    "com.microsoft.QLinearMul": _of_two("Mul"),
    "com.microsoft.QLinearConcat": _concat,
    "com.microsoft.QLinearAveragePool": _of_one("AveragePool"),
    "com.microsoft.QLinearGlobalAveragePool": _of_one("GlobalAveragePool"),
    "com.microsoft.QLinearLeakyRelu": _of_one("LeakyRelu"),
    "com.microsoft.QLinearSigmoid": _of_one("Sigmoid"),
}


def written_out(nodes: Sequence[Node]) -> Iterator[Node]:
    """Nodes on rounded numbers as those on floating-point numbers and the rounding around them."""
    for node in nodes:
        yield from _EXPANDED[node.op](node) if node.op in _EXPANDED else [node]
