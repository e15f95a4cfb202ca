"""Recognises a file by its first bytes and looks through it for dangers."""

from __future__ import annotations

import re
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import safetensors_header, torch_zip
from bdscan.load.danger import Danger, FileExamination
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import dangers, follow_all
from bdscan.load.pickle.records import PickleTrace

LFS = b"version https://git-lfs.github.com/spec/"
_OTHER_FORMATS = (  # what users hand over by mistake
    (b"\x1f\x8b", "a gzip archive", "unpack it and name the model file"),
    (b"BZh", "a bzip2 archive", "unpack it and name the model file"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and name the model file"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it and name the model file"),
    (b"Rar!", "a RAR archive", "unpack it and name the model file"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", "export the net to ONNX"),
    (b"GGUF", "a GGUF file, which holds no image classifier", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
    (b"\x7fELF", "a program", ""),
    (b"MZ", "a Windows program", ""),
    (b"\x89PNG", "a picture", ""),
    (b"\xff\xd8\xff", "a picture", ""),
)
# Fields of ModelProto in onnx.proto3: number -> wire type, 0 for a number and 2 for what has a length.
_ONNX_FIELDS = dict.fromkeys((1, 5), 0) | dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), 2)
_ONNX_GRAPH = 7
_MAX_ONNX_FIELDS = 10_000


def examine(data: mmap) -> FileExamination:
    """Reads the whole file in its own format; a `Problem` where it has none that is known."""
    head = data[:4096]
    if head.startswith(LFS):
        raise Problem("it is a git-LFS pointer, not the model itself", hint="run `git lfs pull` in its repository")
    if head[:2] == b"PK":
        return torch_zip.examine(data)
    if _tar(head):  # before anything else: torch looks for a tar first, whatever else the file may be
        raise Problem("it is a tar archive", hint="unpack it and name the model file")
    if legacy.is_legacy(head):
        return _legacy(data)
    if head[8:9] == b"{":
        return FileExamination(
            "safetensors", tuple(safetensors_header.dangers(safetensors_header.read(data), len(data)))
        )
    if _is_onnx(data):
        return FileExamination("onnx")
    return _pickle(data, head)


def _legacy(data: mmap) -> FileExamination:
    parts = legacy.split(data)
    all_dangers = [
        danger for number, trace in enumerate(parts.traces, 1) for danger in dangers(trace, f"pickle {number}")
    ]
    trailing: list[PickleTrace] = []
    if not parts.problem and parts.end < len(data):
        trailing = [trace for trace in follow_all(data, parts.end) if not trace.broken or trace.names]
        message = f"{len(data) - parts.end:,} bytes follow the last tensor"
        all_dangers.append(Danger(Level.SUSPECT, message, f"byte {parts.end}"))
        all_dangers += [danger for trace in trailing for danger in dangers(trace, f"the pickle at byte {trace.start}")]
    _note_damage(all_dangers, parts.problem)
    return FileExamination("pytorch legacy", tuple(all_dangers), len(parts.traces) + len(trailing))


def _pickle(data: mmap, head: bytes) -> FileExamination:
    traces = follow_all(data)
    first = traces[0]
    if head[:1] != b"\x80" and not _plausible(first):
        raise _no_model(head)
    all_dangers: list[Danger] = []
    for trace in traces:
        where = f"pickle at byte {trace.start}"
        if trace is first or not trace.broken or _plausible(trace):
            all_dangers += dangers(trace, where)
    _note_damage(all_dangers, f"its pickle breaks off: {first.broken}" if first.broken else "")
    if first.end < len(data):
        message = f"{len(data) - first.end:,} bytes follow the end of the pickle"
        all_dangers.append(Danger(Level.SUSPECT, message, f"byte {first.end}"))
    return FileExamination("bare pickle", tuple(all_dangers), sum(not trace.broken for trace in traces))


def _plausible(trace: PickleTrace) -> bool:
    """Most bytes mean something to a pickle reader; a pickle that matters ends properly or imports something."""
    named = any(re.fullmatch(r"[\w.]+", str(name)) for name in trace.names)
    return named or (not trace.broken and isinstance(trace.value, dict | list | tuple))


def _note_damage(all_dangers: list[Danger], problem: str) -> None:
    """What would run comes first: the real unpickler runs it before it stumbles over the damage."""
    if not problem:
        return
    if any(danger.level == Level.BACKDOOR for danger in all_dangers):
        all_dangers.append(Danger(Level.SUSPECT, problem))
    else:
        raise Problem(problem, hint="fetch the file again")


def _tar(head: bytes) -> bool:
    """By the checksum of its first header; old tar files have no magic number."""
    checksum = head[148:156].strip(b"\0 ")
    if len(head) < 512 or not checksum.isdigit() or set(checksum) - set(b"01234567"):
        return False
    return sum(head[:148]) + sum(head[156:512]) + 8 * ord(" ") == int(checksum, 8)


def _no_model(head: bytes) -> Problem:
    for magic, what, hint in _OTHER_FORMATS:
        if head.startswith(magic):
            return Problem(f"it is {what}", hint=hint)
    if head.lstrip()[:1] == b"<":
        return Problem("it is a web page or XML, not a model", hint="fetch the file again")
    return Problem(
        "it is no model file of a kind that is known here", hint="PyTorch, safetensors and ONNX files can be read"
    )


def _is_onnx(data: bytes | mmap) -> bool:
    """By its top-level protobuf fields: true for a whole model, a `Problem` for one that is cut off."""
    if data[:1] != b"\x08":  # ir_version comes first in every writer's files
        return False
    position, numbers = 0, set[int]()
    for _ in range(_MAX_ONNX_FIELDS):
        if position >= len(data):
            break
        tag, position = _varint(data, position)
        number = tag >> 3
        if _ONNX_FIELDS.get(number) != tag & 7:
            return False
        numbers.add(number)
        length, position = _varint(data, position)
        position += length if tag & 7 == 2 else 0
    if position > len(data) and len(numbers) > 1:
        raise Problem("it is an ONNX file that ends too early: it is truncated", hint="fetch the file again")
    return _ONNX_GRAPH in numbers


def _varint(data: bytes | mmap, position: int) -> tuple[int, int]:
    """A protobuf integer and where the next one starts; past the end it reads as zero."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position + shift // 7] if position + shift // 7 < len(data) else 0
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    return 1 << 63, position + 10
