"""The tensors of a surveyed file, taken out without running anything in it."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.archive import safetensors_header
from bdscan.load.archive.torch_tree import Tree, complete_value, mapped, of_zip
from bdscan.load.archive.zips import Archive
from bdscan.load.assembly.unwrap import Weights, strip, unwrap
from bdscan.load.contents import Contents
from bdscan.load.exported.weights import weights_of
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.opcodes import follow_one
from bdscan.load.pickle.rebuild import ByteRange, TensorRebuilder, flat_tensor, torch_dtype
from bdscan.load.source import folders

_Result = TypeVar("_Result")


def read(contents: Contents) -> Weights:
    """All tensors of the file, whatever its dangers: nothing in it is imported or called."""
    weights = _read_with(contents, lambda data: replace(_weights(contents, data), data=data))
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
        return reader(mapped(contents.weights))
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
        return _exported(data) if contents.format == "pt2" else _safetensors(data)
    raise Problem(f"a file of its kind, {contents.format}, holds no model that can be judged")


def _from_shards(contents: Contents) -> Weights:
    """The tensors of all shards, once the index has been found to be right about them."""
    parts = {file.name: _safetensors(mapped(file)) for file in contents.shards}
    folders.check_index(folders.read_index(contents.weights), {name: part.tensors for name, part in parts.items()})
    tensors = {name: tensor for part in parts.values() for name, tensor in part.tensors.items()}
    metadata = {key: value for part in parts.values() for key, value in part.metadata.items()}
    return Weights(tensors, kind=f"state dict in {len(parts)} files", metadata=metadata)


def _legacy(data: mmap.mmap) -> Tree:
    parts = legacy.split(data)
    if parts.problem:
        raise Problem(parts.problem)

    def locate(key: str) -> ByteRange | None:
        return (data, *parts.spans[key]) if key in parts.spans else None

    return parts.main.value, TensorRebuilder(locate, len(data)).tensor


def _pickle(data: mmap.mmap) -> Tree:
    return complete_value(follow_one(data, 0, len(data))), TensorRebuilder(lambda key: None, len(data)).tensor


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


def _exported(data: mmap.mmap) -> Weights:
    tensors = weights_of(Archive(data))
    if not tensors:
        raise Problem("it holds no weights")
    return Weights({name: tensor for name, (tensor, _) in tensors.items()}, kind="weights of an exported program")


_TREES = {"pytorch zip": of_zip, "torchscript": of_zip, "pytorch legacy": _legacy, "bare pickle": _pickle}
