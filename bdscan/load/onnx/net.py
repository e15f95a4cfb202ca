"""An ONNX graph as a torch net: nodes with weights as layers, all others as operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem, plain
from bdscan.load.arch.bounded import Bounded
from bdscan.load.graph.net import Step, StepNet
from bdscan.load.graph.operators import as_float32
from bdscan.load.onnx.entry import entry_of
from bdscan.load.onnx.graph import MADE_HERE, Graph, Node
from bdscan.load.onnx.layers import LAYERS, linear
from bdscan.load.onnx.operators import OPERATORS
from bdscan.load.onnx.padding import PADDED, InnerAveragePool, Padded, padding
from bdscan.load.onnx.quantised import written_out

_LAST = ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "Hardmax", "ai.onnx.ml.ZipMap")  # the order of logits stays
_SILENT = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")  # nothing to tell of
_MAX_SHOWN = 20  # operators in one sentence
_ALWAYS_ALLOWED = 1 << 24  # numbers that may be made out of constants, however few the file has
_MAX_GROWTH = 8  # times the numbers in the file: a weight is copied up to four times on its way into its layer
# Whose inputs from this place on say how large the result is.
_SIZED = {"ConstantOfShape": 0, "Range": 0, "Resize": 1, "Upsample": 1} | dict.fromkeys(
    ("Expand", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze"), 1
)


class Operator(nn.Module):
    """A node without a layer of its own in torch; its floating-point constants are buffers."""

    def __init__(self, node: Node, constants: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.op = node.op
        self.attributes = {**node.attributes, "outputs": len(node.outputs)}
        self.cpu_constants: dict[int, Tensor] = {}  # sizes, axes and indices stay on the CPU, where they are read
        self.buffer_places: list[int] = []
        self.input_places = [i for i, name in enumerate(node.inputs) if name and constants[i] is None]
        self.count = len(node.inputs)
        for i, constant in enumerate(constants):
            if constant is not None and constant.is_floating_point():
                self.register_buffer(f"constant_{i}", constant)
                self.buffer_places.append(i)
            elif constant is not None:
                self.cpu_constants[i] = constant

    def extra_repr(self) -> str:
        return self.op

    def forward(self, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        arguments: list[Tensor | None] = [None] * self.count
        for i, tensor in self.cpu_constants.items():
            arguments[i] = tensor
        for i in self.buffer_places:
            arguments[i] = self.get_buffer(f"constant_{i}")
        for i, value in zip(self.input_places, values, strict=True):
            arguments[i] = value
        return OPERATORS[self.op](self.attributes, *arguments)


def build(graph: Graph) -> StepNet:
    """The net, or one problem that names every operator that stands in the way."""
    graph = replace(graph, nodes=tuple(written_out(graph.nodes)))
    unknown = sorted({node.op for node in graph.nodes if node.op not in OPERATORS and node.op not in LAYERS})
    if not unknown:
        numbers = sum(math.prod(constant.shape) for constant in graph.constants.values())
        room = _ALWAYS_ALLOWED + _MAX_GROWTH * numbers
        with torch.no_grad(), Bounded(room, altogether=room):
            builder = _Builder(graph)
            for node in builder.nodes:
                builder.add(node)
        unknown = sorted(builder.unknown)
    if unknown:
        shown = ", ".join(f"`{plain(op)}`" for op in unknown[:_MAX_SHOWN]) + (
            " ..." if len(unknown) > _MAX_SHOWN else ""
        )
        message = f"the ONNX graph uses operators that cannot be rebuilt: {shown}"
        raise Problem(message, hint="give the PyTorch checkpoint the ONNX file was exported from")
    builder.net.close()
    return builder.net


class _Builder:
    def __init__(self, graph: Graph) -> None:
        self.constants = dict(graph.constants)
        self.net = StepNet(graph.input, graph.output, entry_of(graph))
        self.unknown: set[str] = set()
        self.shape_values: set[str] = set()  # values computed from shapes alone
        self.merged: set[str] = set()  # outputs that an earlier step gives already
        self.nodes = [node for node in graph.nodes if not self._folded(node)]
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)

    def _folded(self, node: Node) -> bool:
        """Whether the node depends on no image, and so is worked out once and for all."""
        if node.op not in OPERATORS or any(name and name not in self.constants for name in node.inputs):
            return False
        results = Operator(node, [self.constants.get(name) for name in node.inputs])()
        parts = results if isinstance(results, tuple) else (results,)
        self.constants.update((name, as_float32(part)) for name, part in zip(node.outputs, parts, strict=False))
        return True

    def add(self, node: Node) -> None:
        if node.outputs[0] in self.merged:
            return
        constants = [self.constants.get(name) for name in node.inputs]
        running = tuple(name for name in node.inputs if name and name not in self.constants)
        sizes = {name for name in node.inputs[_SIZED.get(node.op, len(node.inputs)) :] if name in running}
        if not sizes <= self.shape_values:  # the pixels would say how much memory is taken
            self.unknown.add(f"{node.op} (with sizes that depend on the image)")
        elif node.op in OPERATORS and (node.op == "Shape" or self.shape_values.issuperset(running)):
            self.shape_values |= set(node.outputs)
            self.net.steps.append(Step("", Operator(node, constants), running, node.outputs))
        elif not (self._merged(node, constants) or self._layer(node, constants)):
            if node.op not in OPERATORS:
                self.unknown.add(f"{node.op} (with these settings)")
                return
            self.net.add(node.name, Operator(node, constants), running, node.outputs)

    def _layer(self, node: Node, constants: Sequence[Tensor | None]) -> bool:
        if node.op not in LAYERS or not node.inputs or node.inputs[0] in self.constants:
            return False
        module = LAYERS[node.op](node, constants)
        if module is None:
            return False
        source = node.inputs[0]
        if node.op in PADDED and not isinstance(module, InnerAveragePool):
            weight = constants[1] if node.op == "Conv" else None
            kernel = list(weight.shape[2:]) if weight is not None else node.attributes["kernel_shape"]
            if padding(node, kernel) is None:
                source = f"{node.outputs[0]}{MADE_HERE}padded"
                self.net.add(f"{node.name}_pad", Padded(node, kernel, PADDED[node.op]), node.inputs[:1], (source,))
        self.net.add(node.name, module, (source,), node.outputs)
        return True

    def _merged(self, node: Node, constants: Sequence[Tensor | None]) -> bool:
        """A product with a constant and the sum after it are one linear layer."""
        readers = self.readers.get(node.outputs[0], [])
        product = LAYERS[node.op](node, constants) if node.op in ("MatMul", "Gemm") else None
        if (
            not isinstance(product, nn.Linear)
            or product.bias is not None
            or [reader.op for reader in readers] != ["Add"]
        ):
            return False
        other = next((name for name in readers[0].inputs if name != node.outputs[0]), "")
        bias = self.constants.get(other)
        if bias is None or bias.numel() != product.out_features or bias.shape[-1:] != bias.flatten().shape:
            return False
        merged = linear(product.weight.detach(), bias.flatten())
        self.net.add(node.name, merged, node.inputs[:1], readers[0].outputs)
        self.merged |= set(readers[0].outputs)
        return True


def without_softmax(graph: Graph) -> tuple[Graph, str]:
    """The graph up to its logits, and what was left out: what keeps their order, and what makes names of them."""
    nodes, note = list(graph.nodes), ""
    while nodes and (count := _after_logits(nodes, graph.input)):
        for node in nodes[-count:]:
            note = note if node.op in _SILENT else f"the net's last `{node.op}` was left out: bdscan works on logits"
        output = nodes[-count].inputs[0]
        nodes = nodes[:-count]
        place = next((i for i, node in enumerate(nodes) if output in node.outputs), len(nodes) - 1)
        graph, nodes = replace(graph, nodes=tuple(nodes[: place + 1]), output=output), nodes[: place + 1]
    return graph, note


def _after_logits(nodes: Sequence[Node], image: str) -> int:
    """How many nodes at the end only say the answer otherwise."""
    *before, last = nodes
    if not last.inputs or last.inputs[0] == image:
        return 0
    if last.op in (*_LAST, "Identity"):
        return 1
    behind = before[-1] if before else last
    if last.op == "Cast":  # of the number of a class, or of what is left out itself
        return int(behind.op in _LAST and last.inputs[0] == behind.outputs[0])
    rounded = [node.op for node in nodes[-3:]][1:] == ["QuantizeLinear", "DequantizeLinear"]
    return 2 if rounded and nodes[-3].op in _LAST and nodes[-2].inputs[0] == nodes[-3].outputs[0] else 0
