"""Recognises a file by what is in it, as any of its readers might, and looks through it for dangers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import keras_outline, onnx_outline, packed, safetensors_header, torch_zip, zip_directory
from bdscan.load.archive.search import TAIL, Place, Search
from bdscan.load.archive.zips import LOCAL, Archive, trailing
from bdscan.load.danger import Danger, FileExamination
from bdscan.load.pickle import legacy
from bdscan.load.pickle.records import PickleTrace

LFS = b"version https://git-lfs.github.com/spec/"
_OTHER_FORMATS = (  # what users hand over by mistake
    (b"7z\xbc\xaf", "a 7z archive", "unpack it and name the model file"),
    (b"Rar!", "a RAR archive", "unpack it and name the model file"),
    (b"GGUF", "a GGUF file, which holds no image classifier", ""),
    (b"\x7fELF", "a program", ""),
    (b"MZ", "a Windows program", ""),
    (b"\x89PNG", "a picture", ""),
    (b"\xff\xd8\xff", "a picture", ""),
)
_HEAD = 4096  # bytes in which a file shows what it is
_UNPACK = "unpack it and name the model file"
_NO_MODELS = {  # format -> what it is; told where nothing grave is in it
    "zip archive": "it is a zip archive, but not one that PyTorch wrote",
    "tar archive": "it is a tar archive",
    "gzip archive": "it is a gzip archive",
    "bzip2 archive": "it is a bzip2 archive",
    "xz archive": "it is an xz archive",
    "LZMA archive": "it is an LZMA archive",
    "zlib stream": "it is a zlib stream",
    "NumPy array": "it is a NumPy array",
}
_POINTER_SIZE = 1024  # bytes that a git-LFS pointer may have

Bytes = bytes | mmap


def examine(data: Bytes) -> FileExamination:
    """Reads the whole file in its own format; a `Problem` where it has none that is known, and nothing is wrong."""
    if data[: len(LFS)] == LFS and len(data) < _POINTER_SIZE:
        raise Problem("it is a git-LFS pointer, not the model itself", hint="run `git lfs pull` in its repository")
    found: list[FileExamination] = []
    problems: list[Problem] = []
    for look in _LOOKS:
        try:
            examined = look(data)
        except Problem as problem:
            problems.append(problem)
        else:
            found += [examined] if examined else []
    if not found:
        raise problems[0] if problems else _no_model(data[:_HEAD])
    examined = found[0] if len(found) == 1 else _polyglot(found)
    examined = _with_embedded_zip(examined, data)
    if examined.format in _NO_MODELS and not _grave(examined.dangers):
        raise Problem(_NO_MODELS[examined.format], hint=_UNPACK)
    return examined


def examine_bytes(data: bytes, depth: int = 0) -> FileExamination:
    """What a loader would find in bytes that stand in a file, `depth` archives deep: never a `Problem`."""
    search = Search(len(data))
    search.content(Place(data, 0, len(data), "", depth))
    return search.result("bytes")


def _polyglot(found: list[FileExamination]) -> FileExamination:
    names = " and a ".join(f"{each.format} file" for each in found)
    message = f"it is a {names} at once: what is loaded depends on the reader"
    return FileExamination(
        "polyglot",
        (Danger(Level.BACKDOOR, message), *(danger for each in found for danger in each.dangers)),
        sum(each.pickles for each in found),
        tuple(sentence for each in found for sentence in each.unread),
    )


def _zip(data: Bytes) -> FileExamination | None:
    """`torch.load` goes by the first four bytes, every other reader by the end."""
    if data[:2] == b"PK":
        return torch_zip.examine(data)
    archive = _archive_at_end(data)
    return torch_zip.examine(data) if archive and archive.is_whole_file else None


def _archive_at_end(data: Bytes) -> Archive | None:
    if data.rfind(zip_directory.END, max(0, len(data) - TAIL)) < 0:
        return None
    try:
        archive = Archive(data)
    except Problem:
        return None
    return archive if archive.members else None


def _with_embedded_zip(examined: FileExamination, data: Bytes) -> FileExamination:
    """Python's reader opens a zip also where it is a value in a file of another kind."""
    archive = None if data[:2] == b"PK" else _archive_at_end(data)
    if archive is None or archive.is_whole_file:
        return examined
    search = Search(len(data))
    search.archive(archive, Place(data, 0, len(data), "a zip in it", 1), embedded=True)
    return replace(
        examined,
        dangers=(*examined.dangers, *search.dangers_found),
        pickles=examined.pickles + search.pickles,
        unread=(*examined.unread, *search.unread),
    )


def _tar(data: Bytes) -> FileExamination | None:
    """torch looks for a tar first, whatever else the file may be."""
    if not packed.is_tar(data[:_HEAD]):
        return None
    search = Search(len(data))
    members = search.tar(Place(data, 0, len(data), ""))
    if not any(member.name == "storages" for member in members):  # which torch asks for first
        return search.result("tar archive")
    search.skip("it is in PyTorch's first format, a tar, whose tensors are not read: save it again", "")
    return search.result("pytorch tar")


def _stream(data: Bytes) -> FileExamination | None:
    """What `joblib` unpacks by itself."""
    search = Search(len(data))
    kind = search.stream(Place(data, 0, len(data), "")) if packed.stream(data[:16]) else ""
    return search.result(kind) if kind else None


def _numpy(data: Bytes) -> FileExamination | None:
    if data[:6] != packed.NUMPY:
        return None
    search = Search(len(data))
    search.content(Place(data, 0, len(data), ""))
    return search.result("NumPy array")


def _legacy(data: Bytes) -> FileExamination | None:
    if not legacy.is_legacy(data[:_HEAD]):
        return None
    search = Search(len(data))
    parts = search.legacy(Place(data, 0, len(data), ""))
    if not parts.problem and parts.end < len(data):
        search.add(trailing(data, parts.end, len(data), "the last tensor"))
    _note_damage(search, parts.problem)
    return search.result("pytorch legacy")


def _safetensors(data: Bytes) -> FileExamination | None:
    if data[8:9] != b"{":
        return None
    return FileExamination("safetensors", tuple(safetensors_header.dangers(safetensors_header.read(data), len(data))))


def _onnx(data: Bytes) -> FileExamination | None:
    return FileExamination("onnx") if onnx_outline.is_onnx(data) else None


def _keras(data: Bytes) -> FileExamination | None:
    if not keras_outline.is_hdf5(data):
        return None
    with keras_outline.opened(data) as file:
        return FileExamination("keras", tuple(keras_outline.dangers(keras_outline.config_in(file), "model_config")))


def _pickle(data: Bytes) -> FileExamination | None:
    """What `pickle.load` would begin to run; torch hands every file to it that is nothing else."""
    head = data[:_HEAD]
    if head.startswith(LOCAL) or legacy.is_legacy(head):
        return None
    search, place = Search(len(data)), Place(data, 0, len(data), "")
    traces = search.stacked(place)
    first = next(traces, None)
    if first is None or (head[:1] != b"\x80" and not _plausible(first)):
        return None
    search.trace(first, f"pickle at byte {first.start}", place)
    for trace in traces:
        if not trace.broken or _plausible(trace):
            search.trace(trace, f"pickle at byte {trace.start}", place)
    _note_damage(search, f"its pickle breaks off: {first.broken}" if first.broken else "")
    if first.end < len(data):
        search.add(trailing(data, first.end, len(data), "the end of the pickle"))
    return search.result("bare pickle")


def _plausible(trace: PickleTrace) -> bool:
    """Most bytes mean something to a pickle reader; a pickle that matters ends properly or imports something."""
    named = any(re.fullmatch(r"[\w.]+", str(name)) for name in trace.names)
    return named or (not trace.broken and isinstance(trace.value, dict | list | tuple))


def _note_damage(search: Search, problem: str) -> None:
    """What would run comes first: the real unpickler runs it before it stumbles over the damage."""
    if not problem:
        return
    if not _grave(search.dangers_found):
        raise Problem(problem, hint="fetch the file again")
    search.add(Danger(Level.SUSPECT, problem))


def _grave(found: Iterable[Danger]) -> bool:
    return any(danger.level > Level.NOTE for danger in found)


def _no_model(head: bytes) -> Problem:
    for magic, what, hint in _OTHER_FORMATS:
        if head.startswith(magic):
            return Problem(f"it is {what}", hint=hint)
    kind = packed.stream(head)
    if kind and kind[0] != "zlib stream":  # whose two bytes may begin any text
        return Problem(f"{_NO_MODELS[kind[0]]}, and a damaged one", hint="fetch the file again")
    if head.lstrip()[:1] == b"<":
        return Problem("it is a web page or XML, not a model", hint="fetch the file again")
    return Problem(
        "it is no model file of a kind that is known here",
        hint="PyTorch, safetensors, ONNX and Keras files can be read",
    )


_LOOKS: tuple[Callable[[Bytes], FileExamination | None], ...] = (
    _zip,
    _tar,
    _legacy,
    _safetensors,
    _onnx,
    _keras,
    _stream,
    _numpy,
    _pickle,
)
