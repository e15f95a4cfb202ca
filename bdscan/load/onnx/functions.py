"""The functions of an ONNX file, written out in full: weighed first, for they may call one another without end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem

MAX_NODES = 1 << 15  # the largest exports of image classifiers have some 10,000
_MAX_DEPTH = 32  # calls within calls; exporters nest ten or so
_BYTES_PER_NODE = 1 << 14  # a node with more in it counts for several

_Key = tuple[str, str, str]


def inlined(model: Any) -> Any:
    """The model without functions, if that leaves it of a size that can be worked with."""
    from onnx import inliner

    if model.functions:
        bodies = {(each.domain, each.name, each.overload): each.node for each in model.functions}
        if _Weights(bodies).of(model.graph.node) > MAX_NODES:
            raise Problem("the functions of the ONNX file write out to more than any net holds")
        model = inliner.inline_local_functions(model)
    if len(model.graph.node) > MAX_NODES:
        raise Problem(f"the ONNX graph has {len(model.graph.node):,} nodes, more than any net holds")
    return model


class _Weights:
    """How many nodes a call stands for, each function counted once."""

    def __init__(self, bodies: Mapping[_Key, Iterable[Any]]) -> None:
        self.bodies = bodies
        self.known: dict[_Key, int] = {}

    def of(self, nodes: Iterable[Any], depth: int = 0) -> int:
        """Of the nodes that calls among these write out to."""
        if depth > _MAX_DEPTH:
            raise Problem("the functions of the ONNX file call one another without end")
        total = 0
        for node in nodes:
            check_time()
            graphs = [graph for each in node.attribute for graph in (each.g, *each.graphs)]
            total += sum(self.of(graph.node, depth + 1) for graph in graphs)
            total += self._called((node.domain, node.op_type, node.overload), depth)
        return total

    def _called(self, key: _Key, depth: int) -> int:
        if key not in self.bodies:
            return 0
        if key not in self.known:
            body = list(self.bodies[key])
            own = sum(1 + node.ByteSize() // _BYTES_PER_NODE for node in body)
            self.known[key] = own + self.of(body, depth + 1)
        return self.known[key]
