"""ONNX files: the same graph, with the cleaned numbers where the old ones stood."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bdscan.facts.problem import USAGE, Problem
from bdscan.load.onnx.graph import graph_of, parse
from bdscan.load.onnx.net import build, without_softmax
from bdscan.write.onnx_graph import embed, only_first_output, unshare
from bdscan.write.tensors_file import origin

_TYPES = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}  # TensorProto's numbers
_DIGIT = 1 << 24  # float32 counts no further; the number of a number is therefore sent in two digits


@dataclass(frozen=True, eq=False)
class WeightMap:
    """Which number of the file each number of the net is."""

    model: Any
    slots: list[Any]  # the tensors of the file that can be told apart from settings
    index: Mapping[str, Tensor]  # for each tensor of the net: places in the slots, laid end to end
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, path: Path, net: nn.Module) -> WeightMap:
        """Numbered instead of weighty tensors go through the same door that the weights came in by.

        However the reader transposed, joined or spread them, the numbers say where each came from.
        """
        model = parse(path)
        notes = only_first_output(model.graph)
        embed(model, path)
        unshare(model.graph)
        slots = _slots(model)
        low, high = (_numbered(model, path, digit) for digit in (0, 1))
        flat, state = _flat(slots), net.state_dict()
        index = {}
        for name in low if len(flat) else ():
            place = high[name].double() * _DIGIT + low[name].double() - 1
            integral = (place == place.round()) & (place >= 0) & (place < len(flat))
            if name in state and bool(integral.all()) and torch.equal(flat[place.long()], state[name].float().cpu()):
                index[name] = place.long()
        untraced = [name for name, value in net.named_parameters() if value.numel() > 1 and name not in index]
        if untraced:
            message = f"`{path}` works out its tensor `{untraced[0]}` from others, so it cannot be written back"
            raise Problem(message, hint="give the PyTorch checkpoint the ONNX file was exported from", status=USAGE)
        return cls(model, slots, index, tuple(notes))

    def save(self, place: Path, state: Mapping[str, Tensor], old: Mapping[str, Tensor], sha256: str) -> float:
        """Writes the file; gives back the coarsest rounding among the types of what was changed."""
        flat, changed = self._flat_with_state(state, old)
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

    def _flat_with_state(self, state: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The numbers of all slots with the net's in their places, and which of them are the net's."""
        flat = _flat(self.slots)
        changed = torch.zeros(len(flat), dtype=torch.bool)
        values = {name: value.detach().cpu() for name, value in state.items()}
        for name, index in self.index.items():
            flat[index] = values[name].float()
            changed[index] = True
        misplaced = [
            name for name in values if name not in self.index and not torch.equal(values[name], old[name].cpu())
        ]
        if misplaced:
            raise Problem(f"the cleaned tensor `{misplaced[0]}` has no place of its own in the ONNX file")
        if any(not torch.equal(flat[index], values[name].float()) for name, index in self.index.items()):
            raise Problem("one tensor of the ONNX file stands for two layers that are no longer alike")
        return flat, changed


def _numbered(model: Any, path: Path, digit: int) -> dict[str, Tensor]:
    """The net's tensors when each number is its own place: the lower digit of it, or the higher."""
    from onnx import TensorProto

    other, at = copy.deepcopy(model), 0
    for slot in _slots(other):
        places = torch.arange(at, at + _count(slot)) + 1  # zeros are made in many places
        slot.data_type = TensorProto.FLOAT
        _fill(slot, (places // _DIGIT if digit else places % _DIGIT).float())
        at += len(places)
    graph, _ = without_softmax(graph_of(other, path))
    return dict(build(graph, "").state_dict())


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
