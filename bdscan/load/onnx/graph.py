"""An ONNX file as plain data: nodes, constants and the one input, every tensor read by us and bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem, plain
from bdscan.load.graph.batch import first_line
from bdscan.load.graph.operators import as_float32
from bdscan.load.onnx.functions import inlined

_MAX_BYTES = 2**31 - 1  # bytes: protobuf's own bound on one message, and ours on the tensors beside it
_MAX_AXES = 64  # numpy's
_MIN_OPSET = 7  # before it, sums and products broadcast by other rules
_AXES = (2, 3, 4)  # of a batch of images: their numbers in one row, without channels, with them
MADE_HERE = "\udc80"  # in the names of values that stand in no file: none is of valid Unicode there


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
    integers: bool  # whether the input takes whole numbers
    tensors: int  # in the file
    used: int  # of these
    notes: tuple[str, ...] = field(default=())


def graph_of(model: Any, path: Path) -> Graph:
    """What of a parsed file leads from the image to the first output; its tensors may lie in files beside `path`."""
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset < _MIN_OPSET:
        raise Problem(f"`{path}` has the operators of opset {opset}, which is too old", hint="convert it to opset 13")
    _check_names(graph, path)
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
    notes = (
        (f"only the first of {len(graph.output)} outputs is judged: `{plain(output)}`",)
        if len(graph.output) > 1
        else ()
    )
    constants = {name: tensors.read(tensor) for name, tensor in initial.items() if name in needed}
    dims, integers = _dims(images[0], path)
    return Graph(nodes, constants, images[0].name, output, dims, integers, len(initial), len(constants), notes)


def parse(path: Path) -> Any:
    """The file as protobuf, its functions written out in full."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise Problem("ONNX files need the `onnx` package", hint="pip install onnx") from error
    if path.stat().st_size > _MAX_BYTES:
        raise Problem(f"`{path}` is larger than 2 GB, more than an ONNX file can hold")
    try:
        model = inlined(onnx.load_model_from_string(path.read_bytes()))
    except (DecodeError, ValueError, RuntimeError) as error:
        raise Problem(f"`{path}` is not a sound ONNX file: {first_line(error)}") from error
    if not model.graph.node:
        raise Problem(f"`{path}` is not a sound ONNX file: it holds no graph")
    return model


def embed(model: Any, path: Path) -> None:
    """Puts the tensors that lie in files beside `path` into the model itself."""
    reader = _TensorReader(path.parent)
    for tensor in model.graph.initializer:
        if external(tensor):
            tensor.raw_data = bytes(reader.external_bytes(tensor))
            tensor.data_location = type(tensor).DEFAULT
        del tensor.external_data[:]


def external(tensor: Any) -> bool:
    return bool(tensor.data_location == type(tensor).EXTERNAL)


def _check_names(graph: Any, path: Path) -> None:
    """A value that is made twice is another one for every reader."""
    seen = {tensor.name for tensor in graph.initializer}
    made = [value.name for value in graph.input if value.name not in seen]
    made += [name for node in graph.node for name in node.output if name]
    twice = len(seen) < len(graph.initializer)
    if twice or len(made) != len(set(made)) or not seen.isdisjoint(made):
        raise Problem(f"`{path}` gives one name to two values: no reader can tell which is meant")


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


def _dims(value: Any, path: Path) -> tuple[tuple[int | None, ...], bool]:
    """Of the images, and whether they are whole numbers."""
    from onnx import TensorProto as Types

    kind, name = value.type.tensor_type, plain(value.name)
    integers = kind.elem_type in (Types.UINT8, Types.INT32, Types.INT64)
    if not integers and kind.elem_type not in (Types.FLOAT, Types.FLOAT16, Types.BFLOAT16, Types.DOUBLE):
        raise Problem(f"the input `{name}` of `{path}` takes neither floating-point images nor bytes")
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    if dims and len(dims) not in _AXES:
        raise Problem(f"the input `{name}` of `{path}` has {len(dims)} dimensions, a batch of images has 2 to 4")
    return dims or (None,) * 4, integers


class _TensorReader:
    """Reads tensors: inside the file, or in files beside it, never elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_left = _MAX_BYTES

    def read(self, tensor: Any) -> Tensor:
        from onnx import TensorProto, helper, numpy_helper

        check_time()
        if tensor.data_type == TensorProto.STRING:
            return torch.empty(0)
        name = f"`{plain(tensor.name)}`"
        try:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            shape = _sides(tensor)
            if external(tensor) or tensor.HasField("raw_data"):
                data = self.external_bytes(tensor) if external(tensor) else tensor.raw_data
                array = _values(data, kind, shape)
            else:
                array = np.array(numpy_helper.to_array(tensor))
            if array.dtype.kind not in "fiub":  # bfloat16 and float8 have no kind of numpy's own
                array = array.astype(np.float32)
            return as_float32(torch.from_numpy(array))
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise Problem(f"the tensor {name} is not sound: {first_line(error)}") from error

    def external_bytes(self, tensor: Any) -> bytearray:
        """Of one tensor, read once and from one place."""
        location = {entry.key: entry.value for entry in tensor.external_data}
        name, place = f"`{plain(tensor.name)}`", location.get("location", "")
        path = self._inside(place)
        if path is None:
            raise Problem(f"the tensor {name} asks for a file outside the model's folder: `{plain(place)}`")
        try:
            size = path.stat().st_size if path.is_file() else -1  # a pipe would wait for ever
        except (OSError, ValueError):  # a name that no file can have
            size = -1
        if size < 0:
            message = f"the file `{plain(place)}` with the tensor {name} is missing"
            raise Problem(message, hint="ONNX keeps large tensors in files of their own")
        start, length = int(location.get("offset") or 0), int(location.get("length") or size)
        if start < 0 or length < 0 or start + length > size:
            raise Problem(f"the tensor {name} lies beyond the end of `{plain(place)}`: truncated?")
        self.bytes_left -= length
        if self.bytes_left < 0:
            raise Problem("the tensors beside the ONNX file are larger than 2 GB together, which is not supported")
        data = bytearray(length)
        with path.open("rb") as stream:
            stream.seek(start)
            if stream.readinto(data) != length:
                raise Problem(f"the tensor {name} lies beyond the end of `{plain(place)}`: truncated?")
        return data

    def _inside(self, place: str) -> Path | None:
        """The file of that name in the model's folder; None where it would lie elsewhere."""
        path = self.folder / place
        try:
            led_away = not place or Path(place).is_absolute() or ".." in Path(place).parts
            return None if led_away or any(_links(path, self.folder)) else path
        except (OSError, ValueError):  # a name that no file can have: it is told as missing
            return path


def _sides(tensor: Any) -> tuple[int, ...]:
    """The shape, checked: a reader that takes -1 for `whatever is there` would see another tensor."""
    shape = tuple(tensor.dims)
    if len(shape) > _MAX_AXES or any(side < 0 for side in shape):
        raise ValueError(f"a shape of {len(shape)} sides, the smallest {min(shape)}")
    return shape


def _values(data: bytes | bytearray, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """As many numbers as the bytes hold, neither more nor less."""
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"{len(data):,} bytes for {math.prod(shape):,} numbers of {kind}")
    array = np.frombuffer(data, dtype=kind.newbyteorder("<")).reshape(shape)
    return array if isinstance(data, bytearray) else array.copy()


def _links(path: Path, folder: Path) -> Iterator[bool]:
    """Links may lead anywhere, so none is followed between the folder and the file."""
    while path != folder:
        yield path.is_symlink()
        path = path.parent
