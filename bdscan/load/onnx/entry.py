"""How images enter an ONNX graph: the axes it takes, the order of their numbers, and whether they are bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bdscan.load.graph.net import Entry
from bdscan.load.graph.rebuilt import square
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


def rows_last(graph: Graph, entry: Entry) -> Entry | None:
    """The other order in which the numbers of a colour image may stand in one row; None where there is none."""
    shape = shape_of(graph, entry)
    colour = entry.axes == 2 and (shape is None or shape[0] > 1)
    return replace(entry, channels_last=True) if colour else None


def shape_of(graph: Graph, entry: Entry) -> tuple[int, int, int] | None:
    """Channels, height and width of the images; None where the graph does not tell."""
    sides = [side for side in graph.dims[1:] if side is not None]
    if len(sides) < len(graph.dims) - 1:
        return None
    if entry.axes == 2:
        return square(sides[0])
    if entry.axes == 3:
        return (1, sides[0], sides[1])
    return (sides[2], sides[0], sides[1]) if entry.channels_last else (sides[0], sides[1], sides[2])


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
