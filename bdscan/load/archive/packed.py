"""What is squeezed or lined up in other ways than a zip: gzip, bzip2, xz, zlib streams, tar, NumPy's arrays."""

from __future__ import annotations

import ast
import bz2
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import NamedTuple, Protocol

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem

_MAX_TAR_MEMBERS = 20_000  # as in a zip
_MAX_NUMPY_HEADER = 10_000  # bytes; what `numpy.load` itself takes, unless it may unpickle
_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
CLOSED = ((b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!\x1a\x07", "a RAR archive"))
NUMPY = b"\x93NUMPY"


class Stream(Protocol):
    """What unpacks step by step."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class TarMember(NamedTuple):
    """A file in a tar."""

    name: str
    start: int
    stop: int
    own_bytes: bool = True  # not those of another name, or some with holes between them


_STREAMS: tuple[tuple[bytes, str, Callable[[], Stream]], ...] = (
    (b"\x1f\x8b\x08", "gzip archive", lambda: zlib.decompressobj(31)),
    (b"BZh", "bzip2 archive", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", "xz archive", lzma.LZMADecompressor),
    (b"]\0\0", "LZMA archive", lzma.LZMADecompressor),
    *((b"x" + bytes([level]), "zlib stream", zlib.decompressobj) for level in (0x01, 0x5E, 0x9C, 0xDA)),
)


def stream(head: bytes) -> tuple[str, Callable[[], Stream]] | None:
    """What kind of compressed stream begins like this, as `joblib` and `pandas` tell them apart."""
    return next(((what, make) for magic, what, make in _STREAMS if head.startswith(magic)), None)


def unpacked(data: bytes | mmap, start: int, stop: int, make: Callable[[], Stream], limit: int) -> bytes | None:
    """The first stream there, unpacked; None where it is none, a `Problem` where it unpacks to more than `limit`."""
    machine, out, at = make(), io.BytesIO(), start
    rest = b""
    try:
        while not machine.eof and (rest or at < stop):
            check_time()
            piece = rest or data[at : min(at + _CHUNK, stop)]
            at += 0 if rest else len(piece)
            out.write(machine.decompress(piece, limit + 1 - out.tell()))
            rest = getattr(machine, "unconsumed_tail", b"")
            if out.tell() > limit:
                raise Problem(f"it unpacks to more than {limit:,} bytes, too many to look at")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return out.getvalue() or None
    return out.getvalue()


def is_tar(head: bytes) -> bool:
    """By its first header, read as `tarfile` reads it; old tar files have no magic number."""
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def tar_members(data: bytes | mmap, start: int, stop: int) -> Iterator[TarMember]:
    """Every member that a reader could take out; a `Problem` where the tar is damaged or beyond measure."""
    try:
        with tarfile.open(fileobj=_Window(data, start, stop), mode="r:") as archive:
            for count, info in enumerate(archive):
                check_time()
                if count >= _MAX_TAR_MEMBERS:
                    raise Problem(f"it lists more than {_MAX_TAR_MEMBERS:,} members, more than any model has")
                if info.issparse() or info.islnk() or info.issym():
                    yield TarMember(info.name, start, start, own_bytes=False)
                elif info.isreg():
                    first = start + info.offset_data
                    yield TarMember(info.name, first, min(first + max(0, info.size), stop))
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, RecursionError):
        raise Problem("it is a damaged tar archive", hint="fetch the file again") from None


def numpy_objects(data: bytes | mmap, start: int, stop: int) -> int | None:
    """Where the pickle of an array of objects begins; None for plain numbers."""
    width = 2 if data[start + 6 : start + 7] == b"\x01" else 4
    begin = start + 8 + width
    end = begin + int.from_bytes(data[start + 8 : begin], "little")
    try:
        header = ast.literal_eval(data[begin : min(end, begin + _MAX_NUMPY_HEADER, stop)].decode("latin1"))
        return end if "O" in repr(header["descr"]) else None
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return end  # a reader that is told to unpickle takes longer headers


class _Window(io.RawIOBase):
    """A read-only file over a part of the bytes."""

    def __init__(self, data: bytes | mmap, start: int, stop: int) -> None:
        self._data, self._start, self._stop, self._at = data, start, stop, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._stop - self._start)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        begin = min(self._start + self._at, self._stop)
        end = self._stop if size is None or size < 0 else min(self._stop, begin + size)
        self._at += end - begin
        return self._data[begin:end]
