"""ONNX files: the same graph, with the cleaned numbers where the old ones stood."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.contents import Contents
from bdscan.load.onnx.graph import embed, graph_of, parse
from bdscan.load.onnx.net import build, without_softmax
from bdscan.write.tensors_file import origin
from bdscan.write.traced import index_of, numbers, with_state

_TYPES = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}  # TensorProto's numbers


@dataclass(frozen=True, eq=False)
class WeightMap:
    """Which number of the file each number of the net is."""

    model: Any
    slots: list[Any]  # the tensors of the file that can be told apart from settings
    index: Mapping[str, Tensor]  # for each tensor of the net: places in the slots, laid end to end
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, contents: Contents, net: nn.Module) -> WeightMap:
        path = contents.weights
        model = parse(path)
        notes = _only_first_output(model.graph)
        embed(model, path)
        _unshare(model.graph)
        slots = _slots(model)
        index = index_of(net, _flat(slots), lambda digit: _numbered(model, path, digit), path)
        return cls(model, slots, index, tuple(notes))

    def save(self, place: Path, state: Mapping[str, Tensor], old: Mapping[str, Tensor], sha256: str) -> float:
        """Writes the file; gives back the coarsest rounding among the types of what was changed."""
        flat, changed = with_state(_flat(self.slots), self.index, state, old)
        rounding, at = 0.0, 0
        for slot in self.slots:
            span = slice(at, at + _count(slot))
            if bool(changed[span].any()):
                rounding = max(rounding, torch.finfo(_TYPES[slot.data_type]).eps)
                _fill(slot, flat[span].to(_TYPES[slot.data_type]))
            at = span.stop
        for key, value in origin(sha256).items():
            self.model.metadata_props.add(key=key, value=value)
        with place.open("xb") as file:
            file.write(self.model.SerializeToString(deterministic=True))
        return rounding


def _numbered(model: Any, path: Path, digit: int) -> dict[str, Tensor]:
    """The net's tensors when each number is its own place: the lower digit of it, or the higher."""
    from onnx import TensorProto

    other, at = copy.deepcopy(model), 0
    for slot in _slots(other):
        slot.data_type = TensorProto.FLOAT
        _fill(slot, numbers(at, _count(slot), digit))
        at += _count(slot)
    graph, _ = without_softmax(graph_of(other, path))
    return dict(build(graph).state_dict())


def _slots(model: Any) -> list[Any]:
    """Tensors of floating-point numbers; single numbers are settings, on which the reader's choice of layers hangs."""
    constants = [
        a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t")
    ]
    return [slot for slot in (*model.graph.initializer, *constants) if slot.data_type in _TYPES and _count(slot) > 1]


def _count(slot: Any) -> int:
    return int(np.prod(list(slot.dims), dtype=np.int64))


def _flat(slots: list[Any]) -> Tensor:
    """All their numbers, end to end, as the reader takes them."""
    from onnx import numpy_helper

    arrays = [np.asarray(numpy_helper.to_array(slot)).astype(np.float32).reshape(-1) for slot in slots]
    return torch.from_numpy(np.concatenate(arrays)) if arrays else torch.empty(0)


def _fill(slot: Any, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise Problem(f"the cleaned tensor `{slot.name}` holds NaN or infinity as the file's number type has it")
    for field in ("float_data", "double_data", "int32_data", "raw_data"):
        slot.ClearField(field)
    slot.raw_data = values.contiguous().view(torch.uint8).numpy().tobytes()


def _only_first_output(graph: Any) -> list[str]:
    """Takes out what does not lead to the first output: it is not cleaned, so its weights must not survive."""
    needed, kept = {graph.output[0].name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    notes = []
    if len(graph.output) > 1:
        notes.append(f"only the first of the {len(graph.output)} outputs is kept: the others are not cleaned")
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


def _unshare(graph: Any) -> None:
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
