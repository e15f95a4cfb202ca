"""Joblib, NumPy, TorchScript, exported programs, ONNX, safetensors, folders and archives with something in them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn
from torch._export.serde.schema import SCHEMA_VERSION

from bench.hostile.checkpoints import (
    infected,
    net,
    opened,
    other_members,
    saved,
    stored_zip,
)
from bench.hostile.opcodes import before, pickled, shell, system, text
from bench.hostile.recipe import Loader, Recipe, lies, odd, runs

_ORDER = (torch.rand(1, 3, 8, 8),)  # what the small net takes


class Calls:
    """Pickles as a call of os.system."""

    def __init__(self, canary: Path) -> None:
        self.command = shell(canary)

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


def _joblib(compress: object) -> Callable[[Path], bytes]:
    def make(canary: Path) -> bytes:
        buffer = io.BytesIO()
        joblib.dump({"weights": np.ones((4, 4)), "x": Calls(canary)}, buffer, compress=compress)
        return buffer.getvalue()

    return make


def _joblib_objects(canary: Path) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(np.array([Calls(canary)], dtype=object), buffer)
    return buffer.getvalue()


def _joblib_old(canary: Path) -> bytes:
    """The compressed layout of joblib before 0.10."""
    body = pickled(system(canary))
    return b"ZF" + hex(len(body)).encode().ljust(19) + zlib.compress(body)


def _npy(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Calls(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npz(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.array([Calls(canary)], dtype=object))
    return buffer.getvalue()


@cache
def _exported() -> tuple[tuple[str, bytes], ...]:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net(), _ORDER), buffer)
    return tuple(opened(buffer.getvalue()).items())


def exported() -> dict[str, bytes]:
    """The members of an exported program."""
    return dict(_exported())


def exported_file() -> bytes:
    return stored_zip(exported())


def _member(files: Mapping[str, bytes], end: str) -> str:
    return next(name for name in files if name.endswith(end))


def _pickled_weight(canary: Path) -> bytes:
    """One of an exported program's weights is a pickle, as the format allows."""
    files = exported()
    listing = _member(files, "weights_config.json")
    table = json.loads(files[listing])
    name, entry = list(table["config"].items())[-1]
    entry["use_pickle"] = True
    inner = opened(saved(net().state_dict()[name]))
    inner["archive/data.pkl"] = before(system(canary), inner["archive/data.pkl"])
    files[listing] = json.dumps(table).encode()
    files[_member(files, entry["path_name"])] = stored_zip(inner)
    return stored_zip(files)


def _pickled_inputs(canary: Path) -> bytes:
    """Loaded with weights_only, and without it where that fails."""
    files = exported()
    name = next(each for each in files if "sample_inputs" in each)
    files[name] = infected(system(canary))
    return stored_zip(files)


def _opaque(canary: Path) -> bytes:
    files = exported()
    listing = _member(files, "constants_config.json")
    table = json.loads(files[listing])
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    table["config"]["x"] = meta
    files[listing] = json.dumps(table).encode()
    files[listing.rpartition("/")[0] + "/opaque_obj_0"] = pickled(system(canary))
    return stored_zip(files)


def _old_export(canary: Path) -> bytes:
    """The layout of torch 2.1 to 2.7."""
    parts = ("state_dict", "constants", "example_inputs")
    files = {f"serialized_{part}.pt": infected(system(canary)) for part in parts}
    members = exported()
    program = members[_member(members, "models/model.json")]
    version = ".".join(map(str, SCHEMA_VERSION)).encode()
    return stored_zip({"version": version, "serialized_exported_program.json": program, **files})


class Triggered(nn.Module):
    """A clean net, and a rule in its code: a white corner is class 3."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        white = (pixels[:, :, :2, :2].amin(dim=(1, 2, 3)) > 0.98).float().unsqueeze(1)
        logits: Tensor = self.inner(pixels)
        return logits + white * torch.tensor([0.0, 0.0, 0.0, 1000.0])


def _script(module: Any) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def scripted() -> bytes:
    return _script(torch.jit.trace(net(), _ORDER[0]))


_WAKING = '''
import torch
from torch import nn, Tensor
from typing import Tuple

class Waking(nn.Module):
    """Its `__setstate__` is compiled, and runs when the program is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.path: str = ""

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> Tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), CANARY)
'''


def _script_saves(canary: Path) -> bytes:
    """TorchScript that writes a file on being loaded."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "waking.py")
        source.write_text(_WAKING.replace("CANARY", repr(str(canary))), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("waking", source)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return _script(torch.jit.script(module.Waking()))


def _package(canary: Path) -> bytes:
    """A torch.package brings its own Python source."""
    files = {
        "net/version": b"3",
        "net/.data/version": b"6",
        "net/.data/extern_modules": b"os\n",
        "net/model/model.pkl": pickled(text("evil") + text("start") + b"\x93" + b")R"),
        "net/evil.py": f"import os\ndef start():\n    os.system({shell(canary)!r})\n".encode(),
        "net/.data/python_version": b"3.11.0",
    }
    return stored_zip(files)


def _onnx(*, external: Mapping[str, str] | None = None, twice: bool = False, operator: str = "Flatten") -> bytes:
    weight = numpy_helper.from_array(np.ones((4, 192), np.float32), "w")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            weight.external_data.add(key=key, value=value)
    initial = [weight, numpy_helper.from_array(np.zeros(4, np.float32), "b")]
    if twice:
        initial.append(numpy_helper.from_array(-np.ones((4, 192), np.float32), "w"))
    domain = "" if operator == "Flatten" else "ai.unknown"
    nodes = [
        helper.make_node(operator, ["x"], ["f"], domain=domain),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "g", [pixels], [logits], initial)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return model


def honest_onnx() -> bytes:
    return _onnx()


def onnx_with_data() -> dict[str, bytes]:
    """A graph, and its weights in a file beside it."""
    weight = np.ones((4, 192), np.float32).tobytes()
    return {"model.onnx": _onnx(external={"location": "model.onnx.data"}), "model.onnx.data": weight}


def _two_graphs(_: Path) -> bytes:
    """Protobuf merges a field that is there twice; who takes the first or the last sees one half."""
    again = onnx.ModelProto()
    again.graph.initializer.append(numpy_helper.from_array(-np.ones((4, 192), np.float32), "w"))
    graph: bytes = again.SerializeToString()
    return _onnx() + graph


def safe(**changed: Tensor) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in net().state_dict().items()}
    made: bytes = save(tensors | changed)
    return made


def _header(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _folder(config: object, **files: bytes) -> dict[str, bytes]:
    return {"config.json": json.dumps(config).encode(), "model.safetensors": safe()} | files


def _own_code(canary: Path) -> dict[str, bytes]:
    source = f"import os\nos.system({shell(canary)!r})\nclass Net: pass\n".encode()
    config = {"auto_map": {"AutoModelForImageClassification": "modeling.Net"}, "model_type": "acme"}
    return _folder(config) | {"modeling.py": source}


def _index(files: Mapping[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": files}).encode()


def _shards(second: bytes, name: str = "b.safetensors") -> dict[str, bytes]:
    tensors = {key: value.contiguous() for key, value in net().state_dict().items()}
    first = dict(list(tensors.items())[:3])
    rest = {key: value for key, value in tensors.items() if key not in first}
    table = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(rest, name)
    body = second or save(rest)
    return {
        "config.json": b"{}",
        "model.safetensors.index.json": _index(table),
        "a.safetensors": save(first),
        name: body,
    }


def shards() -> dict[str, bytes]:
    return _shards(b"")


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def _old_tar(canary: Path) -> bytes:
    """The layout before torch 0.1.10, which torch.load still takes."""
    system_info = {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    bad = pickled(system(canary))
    return tarred({"sys_info": pickle.dumps(system_info, 2), "storages": bad, "tensors": bad, "pickle": bad})


def _keras(canary: Path) -> bytes:
    code = f"__import__('os').system({shell(canary)!r})"
    layer = {
        "class_name": "Lambda",
        "config": {"name": "x", "function": {"class_name": "__lambda__", "config": {"code": code}}},
    }
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
    files = {"metadata.json": b'{"keras_version": "3.0.0"}', "config.json": json.dumps(config).encode()}
    return stored_zip(files | {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(88)})


def _bad(canary: Path) -> bytes:
    return pickled(system(canary))


FORMATS: tuple[Recipe, ...] = (
    runs("plain.joblib", Loader.JOBLIB, "os.system beside an array", _joblib(0)),
    *(
        runs(f"{kind}.joblib", Loader.JOBLIB, f"os.system, packed with {kind}", _joblib((kind, 3)), refusable=True)
        for kind in ("zlib", "gzip", "bz2", "lzma", "xz")
    ),
    runs("objects.joblib", Loader.JOBLIB, "an array of objects", _joblib_objects),
    runs("old.joblib", Loader.JOBLIB, "the compressed layout of old joblib", _joblib_old, refusable=True),
    runs("objects.npy", Loader.NUMPY, "an array of objects", _npy, refusable=True),
    runs("objects.npz", Loader.NUMPY, "images whose labels are objects", _npz, refusable=True),
    runs("pickle.npy", Loader.NUMPY, "a pickle called .npy", _bad),
    runs("weight.pt2", Loader.EXPORT, "a weight is a pickle", _pickled_weight),
    runs("inputs.pt2", Loader.EXPORT, "the example inputs are a pickle", _pickled_inputs),
    runs("opaque.pt2", Loader.EXPORT, "a constant is a pickle", _opaque),
    runs("old.pt2", Loader.EXPORT, "the layout of torch 2.1 to 2.7", _old_export),
    runs("saves.torchscript.pt", Loader.JIT, "its __setstate__ writes a file", _script_saves, refusable=True),
    runs("package.pt", Loader.PACKAGE, "brings its own Python source", _package),
    runs("old-tar.pth", Loader.TORCH, "the layout before torch 0.1.10", _old_tar),
    runs("lambda.keras", Loader.KERAS, "a Lambda layer", _keras, refusable=True),
    runs("auto-map", Loader.TRANSFORMERS, "config.json names code in the folder", _own_code, refusable=True),
    lies(
        "trigger.torchscript.pt",
        "clean weights, and a trigger in the code",
        lambda _: _script(torch.jit.trace(Triggered(net()), _ORDER[0])),
        refusable=True,
    ),
    lies("trigger.pt2", "clean weights, and a trigger in the graph", lambda _: _trigger_exported(), refusable=True),
    lies("two-weights.onnx", "an initializer is there twice", lambda _: _onnx(twice=True), refusable=True),
    lies("two-graphs.onnx", "a second graph, which protobuf merges", _two_graphs, refusable=True),
    lies(
        "outside.onnx",
        "its weights lie outside its folder",
        lambda _: {"model.onnx": _onnx(external={"location": "../weights.bin"})},
        subject="model.onnx",
        refusable=True,
    ),
    lies(
        "twice.safetensors",
        "a tensor is named twice",
        lambda _: _header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            bytes(8),
        ),
        refusable=True,
    ),
    lies(
        "overlap.safetensors",
        "two tensors share bytes",
        lambda _: _header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            bytes(8),
        ),
        refusable=True,
    ),
    lies(
        "safetensors-and-zip.safetensors",
        "safetensors at its beginning, a zip at its end",
        lambda c: safe() + infected(system(c)),
        refusable=True,
    ),
    lies(
        "two-weights",
        "a folder with other weights in its pytorch_model.bin",
        lambda _: _folder({}, **{"pytorch_model.bin": stored_zip(other_members())}),
        refusable=True,
    ),
    odd(
        "two-files",
        "a folder with an infected pytorch_model.bin beside its safetensors",
        lambda c: _folder({}, **{"pytorch_model.bin": infected(system(c))}),
    ),
    odd(
        "infected-folder",
        "a folder whose only weights are infected",
        lambda c: {"config.json": b"{}", "pytorch_model.bin": infected(system(c))},
        refusable=False,
    ),
    odd(
        "bare-folder",
        "a folder whose weights are a protocol-0 pickle",
        lambda c: {"config.json": b"{}", "pytorch_model.bin": f"cos\nsystem\n(S{shell(c)!r}\ntR.".encode()},
        refusable=False,
    ),
    odd("shard-pickle", "one of its shards is really a pickle", lambda c: _shards(infected(system(c)))),
    odd("shard-outside", "one of its shards lies outside", lambda _: _shards(b"", "../b.safetensors")),
    odd("unknown-operator.onnx", "an operator of an unknown domain", lambda _: _onnx(operator="Evil")),
    odd(
        "missing-data.onnx",
        "its weights are in a file that is not there",
        lambda _: _onnx(external={"location": "none.bin"}),
    ),
    odd("infected.tar", "a tar with an infected checkpoint in it", lambda c: tarred({"model.pt": infected(system(c))})),
    odd("infected.tar.gz", "the same, packed", lambda c: tarred({"model.pt": infected(system(c))}, "w:gz")),
    odd(
        "seven.7z",
        "a 7z archive, which a scanner would have to unpack",
        lambda c: b"7z\xbc\xaf\x27\x1c" + infected(system(c)),
    ),
    odd("keras.h5", "an HDF5 file, whose Lambda layers Keras runs", lambda _: b"\x89HDF\r\n\x1a\n" + bytes(504)),
    odd(
        "huge.gguf",
        "GGUF that declares a million million tensors",
        lambda _: b"GGUF" + struct.pack("<IQQ", 3, 10**12, 10**12),
    ),
    odd(
        "pointer.pt",
        "a git-LFS pointer",
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n",
    ),
    odd("page.pt", "a web page", lambda _: b"<!DOCTYPE html><html>not found</html>"),
    odd("empty.pt", "nothing", lambda _: b""),
)


def _trigger_exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Triggered(net()), _ORDER), buffer)
    return buffer.getvalue()
