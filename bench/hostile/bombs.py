"""Small files that cost a careless reader gigabytes or minutes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bench.hostile.checkpoints import Entry, end_record, raw_zip
from bench.hostile.opcodes import EMPTY_DICT, NONE, POP, PROTO, STOP, call, data, dict_of, name, pickled, text
from bench.hostile.recipe import Recipe, bomb

_FINE = pickled(EMPTY_DICT)
_CHECKPOINT = (Entry("archive/data.pkl", _FINE), Entry("archive/version", b"3"))
_PAGE = bytes(1 << 20)


def _packed(name: str, pieces: Sequence[bytes]) -> Entry:
    packer, crc, size, out = zlib.compressobj(9, zlib.DEFLATED, -15), 0, 0, []
    for piece in pieces:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        out.append(packer.compress(piece))
    return Entry(name, b"".join(out) + packer.flush(), checksum=crc, method=zipfile.ZIP_DEFLATED, size=size)


def _storage(_: Path) -> bytes:
    return raw_zip([*_CHECKPOINT, _packed("archive/data/0", [_PAGE] * 200)])


def _pickle(_: Path) -> bytes:
    return raw_zip([_packed("archive/data.pkl", [PROTO, *[b"N0" * (1 << 19)] * 60, NONE, STOP]), _CHECKPOINT[1]])


def _many_pickles(_: Path) -> bytes:
    packed = _packed("x", [_PAGE] * 60)
    return raw_zip(
        [*_CHECKPOINT, *(Entry(f"archive/{i}.pkl", packed.body, method=8, size=60 << 20) for i in range(100))]
    )


def _many_members(_: Path) -> bytes:
    return raw_zip([*_CHECKPOINT, *(Entry(f"archive/data/{i}", b"") for i in range(60_000))])


def _overlapping(_: Path) -> bytes:
    """One pickle, listed sixty thousand times."""
    first, again = Entry("archive/data.pkl", _FINE), Entry("archive/x.pkl", PROTO + b"N0" * 200 + NONE + STOP)
    body = first.local() + again.local()
    directory = first.central(0) + again.central(len(first.local())) * 60_000
    return body + directory + end_record(60_001, len(directory), len(body))


def _doubling(_: Path) -> bytes:
    """Each list holds the one before it twice."""
    lists = b"]" + b"".join(b"\x94](h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(200))
    return PROTO + lists + STOP


def _tuple_key(_: Path) -> bytes:
    """The hash of its key takes 2 ** 5000 steps."""
    return pickled(EMPTY_DICT + b"K\x01" + b"2\x86" * 5000 + b"K\x01s")


def _built_again(_: Path) -> bytes:
    state = EMPTY_DICT + b"(" + b"".join(b"J" + struct.pack("<i", i) + NONE for i in range(20_000)) + b"u\x94"
    return pickled(state + POP + call("collections", "OrderedDict") + b"h\x00b" * 50_000)


def _wrapped(_: Path) -> bytes:
    """Every wrapper that a checkpoint may have, all around the same one."""
    wrappers = ("state_dict", "model", "net", "ema", "module", "model_state_dict", "network", "weights", "params")
    levels = EMPTY_DICT + b"(" + b"".join(text(str(i)) + NONE for i in range(5_000)) + b"u\x94" + POP
    for level in range(12):
        inner = b"h" + bytes([level])
        levels += dict_of(**dict.fromkeys(wrappers, inner)) + b"\x94" + POP
    return PROTO + levels + b"h\x0c" + STOP


def _modules(_: Path) -> bytes:
    """A Sequential of eight times the same Sequential, twenty deep."""
    sequential = name("torch.nn.modules.container", "Sequential")
    out = sequential + b"\x94" + POP
    leaf = b"h\x00)\x81" + dict_of(_parameters=EMPTY_DICT, _buffers=EMPTY_DICT, _modules=EMPTY_DICT) + b"b\x94" + POP
    out += leaf
    for level in range(1, 21):
        children = dict_of(**{str(i): b"h" + bytes([level]) for i in range(8)})
        out += b"h\x00)\x81" + dict_of(_parameters=EMPTY_DICT, _buffers=EMPTY_DICT, _modules=children) + b"b\x94" + POP
    return PROTO + out + b"h\x15" + STOP


def _nested_bytes(_: Path) -> bytes:
    """One pickle of a hundred thousand items, loaded fifty thousand times."""
    inner = data(pickled(b"]" + b"(" + NONE * 100_000 + b"e")) + b"\x94" + POP
    again = name("torch.storage", "_load_from_bytes") + b"\x94" + POP
    return PROTO + inner + again + b"(" + b"h\x01h\x00\x85R" * 50_000 + b"l" + STOP


def _safetensors(header: str, body: bytes = b"") -> bytes:
    raw = header.encode()
    return struct.pack("<Q", len(raw)) + raw + body


def _same_names(_: Path) -> bytes:
    return _safetensors("{" + ",".join(f'"{i:x}":0' for i in range(200_000)) + ',"z":0,"z":0}')


def _shape(shape: str) -> bytes:
    return _safetensors(f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}')


def _graph(nodes: Sequence[NodeProto], **arrays: np.ndarray) -> bytes:
    """What the nodes make of constants is added to the logits of a plain linear net."""
    weight, bias = np.ones((4, 192), np.float32), np.zeros(4, np.float32)
    rest = [
        helper.make_node("ReduceSum", ["folded"], ["sum"], keepdims=0),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["z"], transB=1),
        helper.make_node("Add", ["z", "sum"], ["y"]),
    ]
    initial = [numpy_helper.from_array(array, key) for key, array in {"w": weight, "b": bias, **arrays}.items()]
    pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([*nodes, *rest], "g", [pixels], [logits], initial)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    made: bytes = model.SerializeToString()
    return made


def _concatenated(_: Path) -> bytes:
    steps = [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(24)]
    last = helper.make_node("Identity", ["c24"], ["folded"])
    return _graph([*steps, last], c0=np.ones(1024, np.float32))


def _outer(_: Path) -> bytes:
    column, row = np.ones((30_000, 1), np.float32), np.ones((1, 30_000), np.float32)
    return _graph([helper.make_node("Add", ["p", "q"], ["folded"])], p=column, q=row)


def _range(_: Path) -> bytes:
    limits = {"start": 0.0, "stop": 1e30, "step": 1e-30}
    arrays = {key: np.array(value, np.float32) for key, value in limits.items()}
    return _graph([helper.make_node("Range", [*limits], ["folded"])], **arrays)


def _tiled(_: Path) -> bytes:
    arrays = {"one": np.ones((1, 1), np.float32), "times": np.array([100_000, 100_000])}
    return _graph([helper.make_node("Tile", [*arrays], ["folded"])], **arrays)


def _function(level: int) -> onnx.FunctionProto:
    inner, domain = ("Relu", "") if level == 0 else (f"L{level - 1}", "d")
    body = [helper.make_node(inner, ["a"], ["t"], domain=domain), helper.make_node(inner, ["t"], ["o"], domain=domain)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    return helper.make_function("d", f"L{level}", ["a"], ["o"], body, opsets)


def _laughs(_: Path) -> bytes:
    """Thirty functions, each of which calls the one before it twice."""
    model = onnx.ModelProto.FromString(
        _graph([helper.make_node("L29", ["c"], ["folded"], domain="d")], c=np.ones(1, np.float32))
    )
    model.functions.extend(map(_function, range(30)))
    model.opset_import.append(helper.make_opsetid("d", 1))
    out: bytes = model.SerializeToString()
    return out


def _array(_: Path) -> bytes:
    """An .npz that declares three million gigabytes of images."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 3), }".ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    return raw_zip([Entry("images.npy", npy), Entry("labels.npy", npy)])


def _bare(body: bytes, _: Path) -> bytes:
    return PROTO + body + STOP


BOMBS: tuple[Recipe, ...] = (
    bomb("storage.pt", "a storage of zeros unpacks to 200 MB", _storage),
    bomb("pickle.pt", "a pickle unpacks to 60 million opcodes", _pickle),
    bomb("pickles.pt", "a hundred pickles unpack to 60 MB each", _many_pickles),
    bomb("members.pt", "sixty thousand members", _many_members),
    bomb("overlap.pt", "one pickle listed sixty thousand times", _overlapping),
    bomb("doubling.pkl", "a list that holds 2 ** 200 lists", _doubling),
    bomb("key.pkl", "a key whose hash takes 2 ** 5000 steps", _tuple_key),
    bomb("built.pkl", "a dict of 20,000 entries, copied 50,000 times", _built_again),
    bomb("wrappers.pkl", "nine wrappers around the same nine, twelve deep", _wrapped),
    bomb("modules.pkl", "8 ** 20 layers, all the same", _modules),
    bomb("again.pkl", "a nested pickle loaded 50,000 times", _nested_bytes),
    bomb("tuples.pkl", "a million tuples deep", partial(_bare, NONE + b"\x85" * 1_000_000)),
    bomb("dicts.pkl", "two million dicts", partial(_bare, EMPTY_DICT * 1_900_000)),
    bomb("digits.pkl", "an integer of a million digits", partial(_bare, b"I" + b"9" * 1_000_000 + b"\n")),
    bomb("memo.pkl", "a place in the memo far away", partial(_bare, NONE + b"r\xff\xff\xff\x7f")),
    bomb("bytes.pkl", "a million million bytes announced", partial(_bare, b"\x8e" + (1 << 40).to_bytes(8, "little"))),
    bomb(
        "name.pkl",
        "a dotted name of five million parts",
        partial(_bare, b"X" + struct.pack("<I", 10_000_000) + b"a." * 5_000_000 + text("x") + b"\x93"),
    ),
    bomb("names.safetensors", "200,000 tensors, a name twice at the end", _same_names),
    bomb("deep.safetensors", "brackets, half a million deep", lambda _: _safetensors('{"a":' + "[" * 500_000)),
    bomb("dimensions.safetensors", "a shape of 64 dimensions", lambda _: _shape(str([2**63 - 1] * 64))),
    bomb("empty.safetensors", "a tensor of no values and 2 ** 63 columns", lambda _: _shape("[0,9223372036854775807]")),
    bomb(
        "header.safetensors",
        "a header of a million million bytes announced",
        lambda _: struct.pack("<Q", 1 << 40) + b'{"a":1}',
    ),
    bomb("concat.onnx", "constants that fold to 64 GB", _concatenated),
    bomb("outer.onnx", "constants that fold to 3.6 GB", _outer),
    bomb("range.onnx", "a range of 1e60 steps", _range),
    bomb("tile.onnx", "one value tiled to 40 GB", _tiled),
    bomb("laughs.onnx", "functions that call one another 2 ** 30 times", _laughs),
    bomb("arrays.npz", "declares three million gigabytes of images", _array),
)
