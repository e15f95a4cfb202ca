"""Pictures in files: one folder a class, on disk or inside a tar that is never unpacked."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from PIL import Image

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import plain, unusable
from bdscan.images.decode import MAX_FILE_BYTES, UNREADABLE, is_picture, open_picture

_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
_LAYOUT = "give one folder a class, named after it: `cat/1.png`, `dog/2.png`"
_MAX_EXPANSION = 100  # pictures hardly compress: a tar.gz that grows more than this is a bomb
_MAX_FILES = 1_000_000  # files in one class, in a folder or in a tar: ImageNet has 1,300 in each
_ALWAYS_ALLOWED = 1 << 30  # bytes that may come out however little went in


@dataclass
class PictureList:
    """Every picture's class and name, before any is opened."""

    classes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    empty: set[str] = field(default_factory=set)  # class folders without pictures still take a number
    doubts: list[str] = field(default_factory=list)

    def checked(self, spec: str) -> PictureList:
        names = {*self.classes, *self.empty}
        if names and names <= _SPLITS:
            message = f"`{spec}` holds the splits {', '.join(sorted(names))}, not classes"
            raise unusable(message, f"give one of them, such as `{spec}/{min(names)}`")
        if not self.files:
            raise unusable(f"no images in `{spec}`", _LAYOUT)
        return self


# -- on disk ------------------------------------------------------------------


def list_folder(root: Path) -> PictureList:
    """Class folders may hold folders of their own; hidden ones and files that are no pictures do not count."""
    listing = PictureList()
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith((".", "__")))
    for folder in (entry for entry in entries if entry.is_dir()):
        if root.resolve().is_relative_to(folder.resolve()):
            listing.doubts.append(f"the link `{plain(folder.name)}` leads back out of the images and was not followed")
            continue
        pictures = _pictures(folder, root)
        listing.files += pictures
        listing.classes += [folder.name] * len(pictures)
        if not pictures:
            listing.empty.add(folder.name)
    if not listing.files and any(is_picture(entry.name) for entry in entries):
        raise unusable(f"`{root}` holds images without class folders", _LAYOUT)
    return listing.checked(str(root))


def _pictures(folder: Path, root: Path) -> list[str]:
    """All in a class folder and below it, links to further folders not followed."""
    walked, count = list[tuple[str, list[str]]](), 0
    for top, _, names in os.walk(folder):
        check_time()
        walked.append((top, names))
        count += len(names) + 1
        if count > _MAX_FILES:
            raise unusable(f"`{plain(folder)}` holds more than {_MAX_FILES:,} files: no class of images does")
    return [
        os.path.relpath(Path(top) / name, root)
        for top, names in sorted(walked)
        for name in sorted(names)
        if is_picture(name)
    ]


def read_folder(
    root: Path, files: Sequence[str], index: Sequence[int]
) -> Iterator[tuple[int, Image.Image | Exception]]:
    for i in index:
        check_time()
        path = root / files[i]
        try:
            if path.stat().st_size > MAX_FILE_BYTES or not path.is_file():
                raise ValueError("no ordinary picture file")
            with path.open("rb") as stream, open_picture(stream) as picture:
                yield i, picture
        except UNREADABLE as error:
            yield i, error


# -- inside a tar -------------------------------------------------------------


class _Bounded:
    """A stream of which no single read takes more than a picture may weigh: tar headers declare what they like."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES:
            raise tarfile.ReadError(f"a read of {size} bytes")
        return self.stream.read(size)


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[BinaryIO, float]]:
    """The tar's own bytes, and how many there may be."""
    with path.open("rb") as raw:
        size = path.stat().st_size
        if raw.read(2) == b"\x1f\x8b":
            with gzip.open(path) as stream:
                yield cast(BinaryIO, stream), max(_ALWAYS_ALLOWED, _MAX_EXPANSION * size)
        else:
            raw.seek(0)
            yield raw, size


def list_tar(path: Path) -> tuple[PictureList, list[tuple[int, int]]]:
    """Every picture's class and name, and where its bytes lie."""
    try:
        names, places, left_out = _headers(path)
    except (tarfile.TarError, RecursionError, *UNREADABLE) as error:
        raise unusable(f"`{path}` cannot be read as a tar: {plain(error)}") from error
    split = [PurePosixPath(name).parts for name in names]
    while split and min(map(len, split)) > 2 and len({parts[0] for parts in split}) == 1:
        split = [parts[1:] for parts in split]
    if split and min(map(len, split)) < 2:
        raise unusable(f"`{path}` holds images without class folders", _LAYOUT)
    listing = PictureList([parts[0] for parts in split], names)
    if left_out:
        message = f"{left_out} entries of the tar were ignored: links, devices or paths that lead out of it"
        listing.doubts.append(message)
    return listing.checked(str(path)), places


def _headers(path: Path) -> tuple[list[str], list[tuple[int, int]], int]:
    names, places, left_out = [], [], 0
    with _unpacked(path) as (stream, bound), tarfile.open(fileobj=cast(BinaryIO, _Bounded(stream)), mode="r:") as tar:
        for member in tar:
            check_time()
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            if member.offset_data + member.size > bound:
                raise unusable(f"`{path}` declares more bytes than it can hold: truncated, or a bomb")
            if _leads_out(member):
                left_out += 1
            elif member.isfile() and is_picture(member.name):
                names.append(str(PurePosixPath(member.name)))
                places.append((member.offset_data, member.size))
    return names, places, left_out


def _leads_out(member: tarfile.TarInfo) -> bool:
    if member.name.startswith(("/", "\\")) or ".." in PurePosixPath(member.name).parts:
        return True
    return not (member.isfile() or member.isdir()) or member.issparse()


def read_tar(
    path: Path, places: Sequence[tuple[int, int]], index: Sequence[int]
) -> Iterator[tuple[int, Image.Image | Exception]]:
    """In the order of the archive: a compressed one can only be read forwards."""
    with _unpacked(path) as (stream, _):
        for i in sorted(index, key=lambda i: places[i]):
            check_time()
            start, size = places[i]
            try:
                if size > MAX_FILE_BYTES:
                    raise ValueError(f"{size} bytes are too many for a picture")
                stream.seek(start)
                with open_picture(io.BytesIO(stream.read(size))) as picture:
                    yield i, picture
            except UNREADABLE as error:
                yield i, error
