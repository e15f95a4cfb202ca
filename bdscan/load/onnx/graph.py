"""An ONNX file as plain data: nodes, constants and the one input, every tensor read by us and bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.problem import Problem

_MAX_BYTES = 2**31 - 1  # bytes: protobuf's own bound on one message, and ours on the tensors beside it
_MIN_OPSET = 7  # before it, sums and products broadcast by other rules


@dataclass(frozen=True)
class Node:
    """One operation."""

    name: str
    op: str
    inputs: tuple[str, ...]  # empty: an optional input left out
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """The part of the file that leads from the image to the first output."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    input: str
    output: str
    dims: tuple[int | None, ...]  # of the input, batch first; None: not stated
    tensors: int  # in the file
    used: int  # of these
    notes: tuple[str, ...] = field(default=())


def graph_of(model: Any, path: Path) -> Graph:
    """What of a parsed file leads from the image to the first output; its tensors may lie in files beside `path`."""
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset < _MIN_OPSET:
        raise Problem(f"`{path}` has the operators of opset {opset}, which is too old", hint="convert it to opset 13")
    tensors = _TensorReader(path.parent)
    initial = {tensor.name: tensor for tensor in graph.initializer}
    if graph.sparse_initializer:
        raise Problem(f"`{path}` keeps sparse tensors, which are not supported")
    images = [value for value in graph.input if value.name not in initial]
    if len(images) != 1 or not graph.output:
        raise Problem(f"`{path}` takes {len(images)} inputs and gives {len(graph.output)} outputs: no image classifier")
    output = graph.output[0].name
    nodes = _leading_to(output, [_node(entry, i, opset, tensors) for i, entry in enumerate(graph.node)])
    needed = {name for node in nodes for name in node.inputs}
    notes = (f"only the first of {len(graph.output)} outputs is judged: `{output}`",) if len(graph.output) > 1 else ()
    constants = {name: tensors.read(tensor) for name, tensor in initial.items() if name in needed}
    dims = _dims(images[0], path)
    return Graph(nodes, constants, images[0].name, output, dims, len(initial), len(constants), notes)


def parse(path: Path) -> Any:
    """The file as protobuf, its functions written out in full."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import inliner
    except ImportError as error:
        raise Problem("ONNX files need the `onnx` package", hint="pip install onnx") from error
    if path.stat().st_size > _MAX_BYTES:
        raise Problem(f"`{path}` is larger than 2 GB, more than an ONNX file can hold")
    try:
        model = onnx.load(str(path), load_external_data=False)
        model = inliner.inline_local_functions(model) if model.functions else model
    except (DecodeError, ValueError, RuntimeError) as error:
        raise Problem(f"`{path}` is not a sound ONNX file: {error}") from error
    if not model.graph.node:
        raise Problem(f"`{path}` is not a sound ONNX file: it holds no graph")
    return model


def _node(entry: Any, place: int, opset: int, tensors: _TensorReader) -> Node:
    attributes = {"opset": opset, **{each.name: _attribute(each, tensors) for each in entry.attribute}}
    op = entry.op_type if entry.domain in ("", "ai.onnx") else f"{entry.domain}.{entry.op_type}"
    return Node(entry.name or f"{entry.op_type}_{place}", op, tuple(entry.input), tuple(entry.output), attributes)


def _attribute(attribute: Any, tensors: _TensorReader) -> Any:
    from onnx import AttributeProto, helper

    if attribute.type == AttributeProto.TENSOR:
        return tensors.read(attribute.t)
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None  # only control flow has them, which is refused by name
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _leading_to(output: str, nodes: list[Node]) -> tuple[Node, ...]:
    needed, kept = {output}, []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed |= set(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _dims(value: Any, path: Path) -> tuple[int | None, ...]:
    from onnx import TensorProto

    kind = value.type.tensor_type
    if kind.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
        message = f"the input `{value.name}` of `{path}` does not take floating-point images"
        raise Problem(message, hint="export the net without the conversion from bytes")
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    if dims and len(dims) != 4:
        raise Problem(f"the input `{value.name}` of `{path}` has {len(dims)} dimensions, images have 4")
    return dims or (None,) * 4


class _TensorReader:
    """Reads tensors: inside the file, or in files beside it, never elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_left = _MAX_BYTES

    def read(self, tensor: Any) -> Tensor:
        from onnx import TensorProto, numpy_helper

        if tensor.data_type == TensorProto.STRING:
            return torch.empty(0)
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = self._external_bytes(tensor)
            tensor.data_location = TensorProto.DEFAULT
        try:
            array = np.array(numpy_helper.to_array(tensor))
            if array.dtype.kind not in "fiub":  # bfloat16 and float8 have no kind of numpy's own
                array = array.astype(np.float32)
            return as_float32(torch.from_numpy(array))
        except (ValueError, TypeError, RuntimeError) as error:
            raise Problem(f"the tensor `{tensor.name}` is not sound: {error}") from error

    def _external_bytes(self, tensor: Any) -> bytes:
        location = {entry.key: entry.value for entry in tensor.external_data}
        place = location.get("location", "")
        path = self.folder / place
        if not place or Path(place).is_absolute() or ".." in Path(place).parts or any(_links(path, self.folder)):
            raise Problem(f"the tensor `{tensor.name}` asks for a file outside the model's folder: `{place}`")
        if not path.is_file():
            message = f"the file `{place}` with the tensor `{tensor.name}` is missing"
            raise Problem(message, hint="ONNX keeps large tensors in files of their own")
        try:
            start, length = int(location.get("offset", 0)), int(location.get("length", path.stat().st_size))
        except ValueError as error:
            raise Problem(f"the tensor `{tensor.name}` is not sound: {error}") from error
        self.bytes_left -= length
        if self.bytes_left < 0:
            raise Problem("the tensors beside the ONNX file are larger than 2 GB together, which is not supported")
        if start < 0 or length < 0 or start + length > path.stat().st_size:
            raise Problem(f"the tensor `{tensor.name}` lies beyond the end of `{place}`: truncated?")
        with path.open("rb") as stream:
            stream.seek(start)
            return bytes(stream.read(length))


def _links(path: Path, folder: Path) -> Iterator[bool]:
    """Links may lead anywhere, so none is followed between the folder and the file."""
    while path != folder:
        yield path.is_symlink()
        path = path.parent


def as_float32(tensor: Tensor) -> Tensor:
    """Every floating-point number as float32: half precision is for storage, double for nobody."""
    return tensor.float() if tensor.is_floating_point() else tensor
