"""The tensors of a surveyed file, taken out without running anything in it."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.archive import safetensors_header, torch_zip
from bdscan.load.archive.zips import Archive
from bdscan.load.assembly.unwrap import Rebuild, Weights, strip, unwrap
from bdscan.load.contents import Contents
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.opcodes import follow_one
from bdscan.load.pickle.rebuild import ByteRange, TensorRebuilder, flat_tensor, torch_dtype
from bdscan.load.pickle.records import PickleTrace
from bdscan.load.source import folders

# Weights hardly compress: what unpacks to more than so many times the file's size is a bomb, unless it is small.
_MAX_EXPANSION = 20
_ALWAYS_ALLOWED = 64 << 20  # bytes unpacked
# torch._export's ScalarType
_PT2_TYPES = dict(enumerate(("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"), 1))
_PT2_TYPES |= {10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16"}

Tree = tuple[object, Rebuild]
_Result = TypeVar("_Result")


def read(contents: Contents) -> Weights:
    """All tensors of the file, whatever its dangers: nothing in it is imported or called."""
    weights = _read_with(contents, lambda data: _weights(contents, data))
    tensors, prefix = strip(weights.tensors)
    described = f"{contents.format}, {weights.kind}"
    described += f" under `{weights.wrapper}`" if weights.wrapper else ""
    described += f", prefix `{prefix}`" if prefix else ""
    return replace(weights, tensors=tensors, prefix=prefix, described=described)


def tree(contents: Contents) -> Tree:
    """All that a pickled file holds, as inert records, and what makes tensors of those that describe one."""
    return _read_with(contents, lambda data: _tree(contents, data))


def _tree(contents: Contents, data: mmap.mmap) -> Tree:
    if contents.format not in _TREES:
        raise Problem(f"a file of its kind, {contents.format}, holds no pickled model")
    return _TREES[contents.format](data)


def _read_with(contents: Contents, reader: Callable[[mmap.mmap], _Result]) -> _Result:
    try:
        return reader(_mapped(contents.weights))
    except Problem as problem:
        message = f"the weights in `{contents.path}` cannot be read: {problem.message}"
        raise Problem(message, hint=problem.hint, status=problem.status) from None
    except (OSError, ValueError) as error:
        raise Problem(f"the weights in `{contents.path}` cannot be read: {type(error).__name__}") from None


def _weights(contents: Contents, data: mmap.mmap) -> Weights:
    if contents.format in _TREES:
        return unwrap(*_TREES[contents.format](data))
    if contents.format == "onnx":
        raise Problem("it is an ONNX file, whose weights come with its graph")
    if contents.shards:
        return _from_shards(contents)
    if contents.format in ("pt2", "safetensors"):
        return _pt2(data) if contents.format == "pt2" else _safetensors(data)
    raise Problem(f"a file of its kind, {contents.format}, holds no model that can be judged")


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # the tensors keep it open


def _from_shards(contents: Contents) -> Weights:
    """The tensors of all shards, once the index has been found to be right about them."""
    parts = {file.name: _safetensors(_mapped(file)) for file in contents.shards}
    folders.check_index(folders.read_index(contents.weights), {name: part.tensors for name, part in parts.items()})
    tensors = {name: tensor for part in parts.values() for name, tensor in part.tensors.items()}
    metadata = {key: value for part in parts.values() for key, value in part.metadata.items()}
    return Weights(tensors, kind=f"state dict in {len(parts)} files", metadata=metadata)


def _zip(data: mmap.mmap) -> Tree:
    archive = Archive(data)
    archive.require_one_reading()
    order = archive.find(f"{archive.root}/byteorder")
    if order is not None and archive.read(order, 16).strip() == b"big":
        raise Problem("it was written on a big-endian machine", hint="save it again on another one")
    unpacked = sum(member.size for member in archive.members if not member.stored)
    if unpacked > _ALWAYS_ALLOWED + _MAX_EXPANSION * len(data):
        raise Problem(f"its members unpack to {unpacked:,} bytes: a zip bomb")
    trace = torch_zip.main_pickle(archive)
    rebuilder = TensorRebuilder(lambda key: _member(archive, f"data/{key}"), len(data))
    return _complete_value(trace), rebuilder.tensor


def _member(archive: Archive, name: str) -> ByteRange | None:
    """The bytes of a stored member where they lie; a compressed one is unpacked within bounds."""
    member = archive.find(f"{archive.root}/{name}")
    if member is None or (member.stored and member.readable):
        return (archive.data, member.start, member.stop) if member and isinstance(archive.data, mmap.mmap) else None
    unpacked = bytearray(archive.read(member, member.size))
    return unpacked, 0, len(unpacked)


def _legacy(data: mmap.mmap) -> Tree:
    parts = legacy.split(data)
    if parts.problem:
        raise Problem(parts.problem)

    def locate(key: str) -> ByteRange | None:
        return (data, *parts.spans[key]) if key in parts.spans else None

    return parts.main.value, TensorRebuilder(locate, len(data)).tensor


def _pickle(data: mmap.mmap) -> Tree:
    return _complete_value(follow_one(data, 0, len(data))), TensorRebuilder(lambda key: None, len(data)).tensor


def _complete_value(trace: PickleTrace) -> object:
    if trace.broken:
        raise Problem(f"its pickle breaks off: {trace.broken}")
    return trace.value


def _safetensors(data: mmap.mmap) -> Weights:
    header = safetensors_header.read(data)
    base = 8 + int.from_bytes(data[:8], "little")
    tensors: dict[str, Tensor] = {}
    for start, stop, name in safetensors_header.spans(header):
        entry = header[name]
        assert isinstance(entry, dict)  # `safetensors_header.read` has checked it
        _, torch_name = safetensors_header.TYPES[entry["dtype"]]
        if not torch_name:
            raise Problem(f"its tensor {quoted(name)} is of a type torch has no arithmetic for, {entry['dtype']}")
        values = flat_tensor((data, base + start, base + stop), torch_dtype(torch_name))
        tensors[name] = values.view(entry["shape"])
    if not tensors:
        raise Problem("it holds no weights")
    return Weights(tensors, metadata=dict(safetensors_header.metadata(header)))


def _pt2(data: mmap.mmap) -> Weights:
    """An exported program's weights: raw storages and a table in JSON."""
    archive = Archive(data)
    archive.require_one_reading()
    folder = f"{archive.root}/data/weights/"
    listing = archive.find(f"{folder}model_weights_config.json")
    if listing is None:
        raise Problem("it does not list its weights", hint="save the net's state dict instead")
    rebuilder = TensorRebuilder(lambda key: None, len(data))
    try:
        table = json.loads(archive.read(listing, _ALWAYS_ALLOWED))["config"]
        tensors = {str(name): _exported(archive, rebuilder, entry) for name, entry in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = "its table of weights is not what torch.export writes"
        raise Problem(message, hint="save the net's state dict instead") from None
    if not tensors:
        raise Problem("it holds no weights")
    return Weights(tensors, kind="weights of an exported program")


def _exported(archive: Archive, rebuilder: TensorRebuilder, entry: Mapping[str, Any]) -> Tensor:
    meta = entry["tensor_meta"]
    source = _member(archive, f"data/weights/{entry['path_name']}")
    if entry.get("use_pickle") or source is None:
        message = "some of its weights are pickled on their own or missing"
        raise Problem(message, hint="save the net's state dict instead")
    values = flat_tensor(source, torch_dtype(_PT2_TYPES[meta["dtype"]]))
    shape, stride = ([side["as_int"] for side in meta[key]] for key in ("sizes", "strides"))
    return rebuilder.view(values, meta["storage_offset"]["as_int"], shape, stride)


_TREES = {"pytorch zip": _zip, "torchscript": _zip, "pytorch legacy": _legacy, "bare pickle": _pickle}
