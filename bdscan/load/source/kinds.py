"""Whether a loader would take a file for a model: told by its bytes, whatever it is called.

Pictures, texts and plain arrays are data, also inside an archive; what is neither those nor a model is no business of
ours. Where that takes more than a look, the file counts as a model: whoever reads it whole says what it is.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePath
from typing import BinaryIO, Protocol

from bdscan.load.archive.formats import LFS
from bdscan.load.pickle.opcodes import follow_one

# These may be anything; a number comes from names like `epoch.10`.
_UNCLEAR_SUFFIXES = frozenset({"", ".bin", ".tar", ".pkl", ".pickle", ".joblib", ".model", ".weights", ".zip", ".dat"})
_TEXT_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv", ".tsv", ".log", ".xml"}
    | {".html", ".svg", ".tex", ".bib", ".py", ".pyi", ".ipynb", ".sh", ".js", ".css", ".c", ".h", ".cc", ".cpp", ".cu"}
)
_HEAD = 4096  # bytes
_LONG_HEAD = 1 << 20  # bytes: what compresses in blocks gives nothing before the first block, of up to 900 kB
_MAX_STEPS = 20_000  # opcodes of a pickle's head; a state dict takes a few thousand
_MAX_MEMBERS = 100_000  # of an archive; the pictures of a data set
_MAX_DICTIONARY = 128 << 20  # bytes that an xz file may ask for
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_PLACES = (0, 512, 1024, 2048)  # bytes of the user's own may come first
_SEALED = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # not to be unpacked here
_ZIP = b"PK\x03\x04"
_ZIP_TAIL = 22 + 0xFFFF  # bytes: the end of the directory, and the longest comment
_USUAL_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CUT = "it ends too early"  # how a pickle breaks that goes on behind what was read
# A version and a graph, or the name of who wrote it: how ONNX files begin, and TensorFlow's saved models.
_ONNX = re.compile(rb"\x08[\x01-\x3f][\x12\x1a\x22\x28\x32\x3a\x42\x72]")
_OBJECTS = re.compile(rb"['\"][<>|=]?O|\\")  # in the header of an array; an escape may spell anything


class _Unpacker(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_UNPACKERS: tuple[tuple[re.Pattern[bytes], Callable[[], _Unpacker]], ...] = (
    (re.compile(rb"\x1f\x8b"), lambda: zlib.decompressobj(31)),
    (re.compile(rb"x[\x01\x5e\x9c\xda]"), zlib.decompressobj),
    (re.compile(rb"BZh"), bz2.BZ2Decompressor),
    (re.compile(rb"\xfd7zXZ\0|\x5d\0\0"), lambda: lzma.LZMADecompressor(memlimit=_MAX_DICTIONARY)),
)


def is_model(file: BinaryIO, name: str) -> bool:
    """Whether anything would load it as one."""
    suffix, head = PurePath(name).suffix.lower(), file.read(_HEAD)
    if head.startswith(LFS):
        return unclear(suffix)
    if head.startswith(_ZIP) or _ends_as_zip(file):
        return not _zip_of_data(file)
    if _tar_member(head) is not None:
        return not _tar_of_data(file)
    if _begins_like_one(head) or _pickle(file, suffix):
        return True
    unpacker = next((make for magic, make in _UNPACKERS if magic.match(head)), None)
    return unpacker is not None and _packs_a_model(file, unpacker())


def unclear(suffix: str) -> bool:
    """Whether a name that ends so says nothing."""
    return suffix in _UNCLEAR_SUFFIXES or suffix[1:].isdecimal()


def _begins_like_one(head: bytes) -> bool:
    pickled = head[:1] == b"\x80" and b"" < head[1:2] <= b"\x05"
    safetensors = head[8:9] == b"{" and head[6:8] == b"\0\0"
    hdf5 = any(head.startswith(_HDF5, place) for place in _HDF5_PLACES)
    objects = head.startswith(b"\x93NUMPY") and _OBJECTS.search(head.partition(b"\n")[0]) is not None
    return pickled or safetensors or hdf5 or objects or head.startswith(_SEALED) or _ONNX.match(head) is not None


def _pickle(file: BinaryIO, suffix: str) -> bool:
    """One of the protocols without a magic number: its opcodes are letters, and so are those of many a text.

    It must call something, or come to its end with something in its hands; where the name promises a pickle, it is
    enough that it imports something.
    """
    for length in (_HEAD, _LONG_HEAD):
        file.seek(0)
        head = file.read(length)
        trace = follow_one(head, 0, len(head), _MAX_STEPS)
        cut = len(head) == length and trace.broken == _CUT
        if not cut and not trace.excessive:
            break
    else:
        return suffix not in _TEXT_SUFFIXES
    if any(re.fullmatch(r"[\w.]+", str(name)) for name in trace.names):
        return bool(trace.calls) or (unclear(suffix) and suffix != "")
    return not trace.broken and isinstance(trace.value, dict | list | tuple)


def _packs_a_model(file: BinaryIO, unpacker: _Unpacker) -> bool:
    """By what it begins with when it is unpacked; what cannot be unpacked no loader reads either."""
    file.seek(0)
    try:
        return _model_inside(unpacker.decompress(file.read(_LONG_HEAD), _HEAD))
    except (zlib.error, OSError, ValueError, EOFError, lzma.LZMAError):
        return False


def _model_inside(head: bytes) -> bool:
    """By the beginning of what lies in an archive; archives in archives count as models."""
    packed = head.startswith(_ZIP) or any(magic.match(head) for magic, _ in _UNPACKERS)
    return packed or _begins_like_one(head) or _tar_member(head) is not None or _pickle(io.BytesIO(head), "")


def _ends_as_zip(file: BinaryIO) -> bool:
    """Readers of zips begin at the end, where the directory's own place is told; a comment may follow."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _ZIP_TAIL))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    return 0 <= at <= len(tail) - 22 and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail)


def _zip_of_data(file: BinaryIO) -> bool:
    """One directory, about which no two readers can disagree, and nothing but data in it."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = file.seek(0, 2)
            file.seek(max(0, size - 42))
            tail = file.read()
            one = tail[-22:-18] == b"PK\x05\x06" and tail[:4] != b"PK\x06\x07"
            one = one and archive.start_dir + int.from_bytes(tail[-10:-6], "little") == size - 22
            if not one or len(entries) > _MAX_MEMBERS or (entries and entries[0].header_offset != 0):
                return False
            return not any(_is_model_member(archive, entry) for entry in entries)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, EOFError, zlib.error):
        return False


def _is_model_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    if PurePath(entry.filename).suffix.lower() in (".pkl", ".pickle") or entry.compress_type not in _USUAL_METHODS:
        return True
    with archive.open(entry) as member:
        return _model_inside(member.read(_HEAD))


def _tar_member(block: bytes) -> tarfile.TarInfo | None:
    """What a header says of the member behind it, by its checksum; old tar files have no magic number."""
    try:
        return tarfile.TarInfo.frombuf(block[:512], "latin-1", "strict")
    except (tarfile.HeaderError, ValueError):
        return None


def _tar_of_data(file: BinaryIO) -> bool:
    """Member after member, to the block of zeros that ends it."""
    at = 0
    for _ in range(_MAX_MEMBERS):
        file.seek(at)
        block = file.read(512 + _HEAD)
        if not block[:512].strip(b"\0"):
            return True
        member = _tar_member(block)
        if member is None or member.size < 0 or _model_inside(block[512 : 512 + member.size]):
            return False
        at += 512 + -(-member.size // 512) * 512
    return False
