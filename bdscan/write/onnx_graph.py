"""An ONNX graph made ready to carry other weights: one output, one file, one tensor a layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bdscan.load.onnx.graph import graph_of


def only_first_output(graph: Any) -> list[str]:
    """Takes out what does not lead to the first output: it is not cleaned, so its weights must not survive."""
    needed, kept = {graph.output[0].name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    notes = []
    if len(graph.output) > 1:
        notes.append(f"only the first of the {len(graph.output)} outputs was kept: the others were not cleaned")
        del graph.output[1:]
    if len(kept) < len(graph.node):
        kept_copies = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
        del graph.node[:]
        graph.node.extend(kept_copies)
    initial = {tensor.name for tensor in graph.initializer}
    _keep(graph.initializer, needed)
    _keep(graph.input, needed | {value.name for value in graph.input if value.name not in initial})
    return notes


def _keep(listed: Any, names: set[str]) -> None:
    for i in reversed(range(len(listed))):
        if listed[i].name not in names:
            del listed[i]


def embed(model: Any, path: Path) -> None:
    """Tensors that lay in files beside the original are put into the one file, by the reader that checks the files."""
    graph_of(model, path)
    for tensor in model.graph.initializer:
        del tensor.external_data[:]


def unshare(graph: Any) -> None:
    """Exporters keep equal tensors of several layers once; cleaned, they need not be equal any more."""
    shared = {tensor.name: tensor for tensor in graph.initializer}
    used: Counter[str] = Counter()
    names_in_use = {name for node in graph.node for name in (*node.input, *node.output)} | set(shared)
    for node in graph.node:
        for i, name in enumerate(node.input):
            used[name] += name in shared
            if used[name] > 1:
                new_name = next(f"{name}.{n}" for n in range(used[name], 1 << 30) if f"{name}.{n}" not in names_in_use)
                names_in_use.add(new_name)
                graph.initializer.add().CopyFrom(shared[name])
                graph.initializer[-1].name = new_name
                node.input[i] = new_name
