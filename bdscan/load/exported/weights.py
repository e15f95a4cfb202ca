"""The tensors of an exported program (.pt2): raw storages and tables in JSON, or checkpoints inside the archive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.archive.torch_tree import member_bytes, of_zip
from bdscan.load.archive.zips import Archive
from bdscan.load.pickle.rebuild import TensorRebuilder, flat_tensor, torch_dtype
from bdscan.load.pickle.records import mapping

MAX_TEXT = 64 << 20  # bytes of JSON; a graph of ten thousand nodes takes some megabytes
# torch._export's ScalarType
TYPES = dict(enumerate(("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"), 1))
TYPES |= {10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16"}
_HINT = "save the net's state dict instead"

Named = dict[str, tuple[Tensor, bool]]  # and whether it is a parameter


def weights_of(archive: Archive) -> Named:
    """Parameters and buffers under their own names."""
    return _read(archive, "weights", "serialized_state_dict.pt")


def constants_of(archive: Archive) -> Named:
    """Tensors that are neither."""
    return _read(archive, "constants", "serialized_constants.pt")


def model_name(archive: Archive) -> str:
    """The one program in it; a `Problem` where there are several."""
    folder = f"{archive.root}/models/"
    names = [member.name for member in archive.members if member.name.startswith(folder)]
    if len(names) != 1 or not names[0].endswith(".json"):
        raise Problem(f"it holds {len(names)} exported programs", hint="export the one that is meant by itself")
    return names[0].removeprefix(folder).removesuffix(".json")


def _read(archive: Archive, kind: str, old: str) -> Named:
    archive.require_one_reading()
    if (whole := archive.find(old)) is not None:
        return dict(_checkpoint(archive.read(whole, len(archive.data))))
    name, folder = model_name(archive), f"{archive.root}/data/{kind}/"
    if (whole := archive.find(f"{folder}{name}.pt")) is not None:
        return dict(_checkpoint(archive.read(whole, len(archive.data))))
    listing = archive.find(f"{folder}{name}_{kind}_config.json")
    if listing is None:
        raise Problem(f"it does not list its {kind}", hint=_HINT)
    rebuilder = TensorRebuilder(lambda key: None, len(archive.data))
    try:
        table = json.loads(archive.read(listing, MAX_TEXT))["config"]
        return {str(name): _tensor(archive, kind, rebuilder, entry) for name, entry in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Problem(f"its table of {kind} is not what torch.export writes", hint=_HINT) from None


def _tensor(archive: Archive, kind: str, rebuilder: TensorRebuilder, entry: Mapping[str, Any]) -> tuple[Tensor, bool]:
    meta, name = entry["tensor_meta"], f"data/{kind}/{entry['path_name']}"
    source = member_bytes(archive, name)
    if source is None or meta is None:
        raise Problem(f"some of its {kind} are missing or no tensors", hint=_HINT)
    if entry.get("use_pickle"):
        value, rebuild = of_zip(bytes(source[0][source[1] : source[2]]))
        tensor = rebuild(value)
        if tensor is None:
            raise Problem(f"some of its {kind} are pickled on their own and no plain tensors", hint=_HINT)
        return tensor, bool(entry["is_param"])
    values = flat_tensor(source, torch_dtype(TYPES[meta["dtype"]]))
    shape, stride = ([side["as_int"] for side in meta[key]] for key in ("sizes", "strides"))
    return rebuilder.view(values, meta["storage_offset"]["as_int"], shape, stride), bool(entry["is_param"])


def _checkpoint(data: bytes) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """As `torch.save` wrote it, a file in the file."""
    value, rebuild = of_zip(data)
    for name, part in (mapping(value) or {}).items():
        tensor = rebuild(part)
        if not isinstance(name, str) or tensor is None:
            raise Problem("it holds more than named tensors where its weights should be", hint=_HINT)
        parameter = "_rebuild_parameter" in str(getattr(part, "maker", ""))
        yield name, (tensor, parameter)
