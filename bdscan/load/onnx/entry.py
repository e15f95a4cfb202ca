"""How images enter an ONNX graph: the axes it takes, the order of their numbers, and whether they are bytes."""

from __future__ import annotations

from collections.abc import Iterator

from bdscan.load.graph.net import Entry
from bdscan.load.graph.rebuilt import Shape, shape_of
from bdscan.load.onnx.graph import Graph, Node

_BYTE = 255
# A mean of bytes is some 30 (of dark digits) and more, of numbers up to 1 it is below 1; so with a divisor.
_LEAST_OF_BYTES = 20
_ON_THE_WAY = ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_CHANNELS = (1, 3)


def entry_of(graph: Graph) -> Entry:
    """As the graph's own input says."""
    scale = float(_BYTE) if graph.integers or _takes_bytes(graph) else 1.0
    first, *_, last = graph.dims[1:] if len(graph.dims) > 2 else (None, None)
    channels_last = len(graph.dims) == 4 and last in _CHANNELS and first not in _CHANNELS
    return Entry(channels_last, len(graph.dims), scale)


def image_shape(graph: Graph, entry: Entry) -> Shape | None:
    """Channels, height and width of the images; None where the graph does not tell."""
    sides = [side for side in graph.dims[1:] if side is not None]
    if len(sides) < len(graph.dims) - 1:
        return None
    return shape_of([sides[-1], *sides[:-1]] if entry.channels_last else sides)


def _takes_bytes(graph: Graph) -> bool:
    """Whether the first sums and products are those that bring numbers up to 255 to the usual range."""
    return any(_of_bytes(node, graph) for node in _first_sums(graph))


def _first_sums(graph: Graph) -> Iterator[Node]:
    """What happens to the image before anything has weights."""
    value = graph.input
    for node in graph.nodes:
        if value in node.inputs:
            if node.op in ("Add", "Sub", "Mul", "Div"):
                yield node
            elif node.op not in _ON_THE_WAY:
                return
            value = node.outputs[0]


def _of_bytes(node: Node, graph: Graph) -> bool:
    numbers = [graph.constants[name] for name in node.inputs if name in graph.constants]
    if len(numbers) != 1 or not numbers[0].numel() or not numbers[0].is_floating_point():
        return False
    size = float(numbers[0].abs().mean())
    return 0 < size < 1 / _LEAST_OF_BYTES if node.op == "Mul" else size > _LEAST_OF_BYTES
