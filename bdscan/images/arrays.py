"""Pictures in arrays: an `.npz`, or a data set as torchvision keeps it on disk."""

from __future__ import annotations

import csv
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from PIL import Image

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import plain, unusable
from bdscan.images.classes import MAX_CLASSES
from bdscan.images.decode import UNREADABLE, Pictures

_MAX_ARRAY_BYTES = 4 << 30  # bytes of one array: it is held whole while the chosen pictures are taken out
_MAX_TABLE_BYTES = 256 << 20  # bytes of the labels or the names: thirty million labels
_MAX_EXPANSION = 100  # pictures hardly compress: what grows more than this is a bomb
_ALWAYS_ALLOWED = 256 << 20  # bytes that may come out however little went in
# A header is read as Python, and so may break like Python.
_UNREADABLE = (*UNREADABLE, KeyError, MemoryError, RuntimeError, TokenError, zipfile.BadZipFile, zlib.error)
_NPZ = "an .npz needs `images` (uint8, N x H x W x C or N x H x W) and `labels` (N whole numbers)"


@dataclass(frozen=True)
class Arrays:
    """N x H x W (x C) pictures, fetched anew each time they are read, so that nobody holds them for long."""

    fetch: Callable[[], Pictures]
    labels: Sequence[int]
    names: tuple[str, ...]  # of the labels; empty: they are numbers

    def classes(self) -> list[str]:
        return [self.names[i] if self.names else str(i) for i in self.labels]

    def __call__(self, index: Sequence[int]) -> Iterator[tuple[int, Image.Image | Exception]]:
        pictures = self.fetch()
        for i in index:
            check_time()
            picture = pictures[i]
            yield i, Image.fromarray(picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture)


# -- npz ----------------------------------------------------------------------


def npz(path: Path) -> Arrays:
    try:
        shape = _declared_pictures(path)
        labels = _entry(path, "labels")
        names = _entry(path, "names", optional=True)
    except _UNREADABLE as error:
        raise unusable(f"`{path}` cannot be read: {plain(error)}", _NPZ) from error
    if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
        raise unusable(f"`labels` in `{path}` are not {shape[0]} whole numbers from 0", _NPZ)
    if len(labels) and labels.max() >= (len(names) if names.size else MAX_CLASSES):
        count = f"only {names.size} names" if names.size else "no net has so many classes"
        raise unusable(f"`{path}` has label {labels.max()} but {count}")
    return Arrays(lambda: _images(path), labels.tolist(), tuple(str(name) for name in names.reshape(-1)))


def _images(path: Path) -> Pictures:
    try:
        with np.load(path, allow_pickle=False) as contents:
            return np.asarray(contents["images"], dtype=np.uint8)
    except _UNREADABLE as error:
        raise unusable(f"`{path}` cannot be read: {plain(error)}", _NPZ) from error


def _entry(path: Path, name: str, *, optional: bool = False) -> np.ndarray[Any, Any]:
    """A short array beside the pictures, never a pickled one; empty where there is none."""
    with zipfile.ZipFile(path) as archive:
        if optional and f"{name}.npy" not in archive.namelist():
            return np.empty(0, dtype=str)
        _declared(archive, name, _MAX_TABLE_BYTES)
        with archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _declared_pictures(path: Path) -> tuple[int, ...]:
    """The shape of `images`, from its header."""
    with zipfile.ZipFile(path) as archive:
        shape, dtype = _declared(archive, "images", _MAX_ARRAY_BYTES)
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ValueError(f"`images` are {dtype} {shape}")
    if 0 in shape[1:]:
        raise ValueError(f"`images` are {shape}, which is no picture")
    return shape


def _declared(archive: zipfile.ZipFile, name: str, most: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an entry, from its header: what does not fit the entry is never allocated."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    size, needed = entry.file_size, math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not needed <= size <= most:
        raise ValueError(f"`{name}` declares {tuple(shape)} of {dtype} in an entry of {size} bytes")
    if size > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * entry.compress_size):
        raise ValueError(f"`{name}` unpacks {entry.compress_size} bytes to {size}: a bomb")
    return tuple(shape), dtype


# -- torchvision's layouts ----------------------------------------------------


class _TrustedNames(pickle.Unpickler):
    """CIFAR's batches are pickles of arrays and lists; nothing else is let in."""

    _ALLOWED = frozenset(
        {("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")}
        | {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
        | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for `{module}.{name}`")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _batch(path: Path) -> Mapping[str, Any]:
    if path.exists() and not (path.is_file() and path.stat().st_size <= _MAX_TABLE_BYTES):
        raise unusable(f"`{path}` is not a CIFAR batch: no file of such a size is one")
    data = path.read_bytes()
    try:
        contents = _TrustedNames(io.BytesIO(data), encoding="latin1").load()
    except (pickle.UnpicklingError, AttributeError, KeyError, MemoryError, RuntimeError, *UNREADABLE) as error:
        raise unusable(f"`{path}` is not a CIFAR batch: {plain(error)}") from error
    if not isinstance(contents, dict):
        raise unusable(f"`{path}` is not a CIFAR batch")
    return contents


def cifar(root: Path, folder: str, batches: Sequence[str], labels: str, meta: str, names: str) -> Arrays:
    inside = root / folder if (root / folder).is_dir() else root
    contents, described = [_batch(inside / batch) for batch in batches], _batch(inside / meta)
    rows = np.concatenate([np.asarray(each["data"], dtype=np.uint8) for each in contents])
    pictures = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    label_numbers = [int(i) for each in contents for i in each[labels]]
    return Arrays(lambda: pictures, label_numbers, tuple(str(name) for name in described[names]))


def gtsrb(root: Path, training: bool = False) -> tuple[Path, list[str], list[str]]:
    """The pictures' folder, their names and their classes."""
    base = root / "gtsrb" if (root / "gtsrb").is_dir() else root
    if training:
        pictures = base / "GTSRB" / "Training"
        files = sorted(path.relative_to(pictures) for path in pictures.glob("*/*.ppm"))
        if not files:
            raise FileNotFoundError(f"no .ppm in the folders of {pictures}")
        return pictures, [str(file) for file in files], [str(int(file.parts[0])) for file in files]
    with (base / "GT-final_test.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter=";"))
    pictures = base / "GTSRB" / "Final_Test" / "Images"
    return pictures, [row["Filename"] for row in rows], [str(int(row["ClassId"])) for row in rows]


def through_torchvision(kind: str, root: Path, training: bool = False) -> Arrays:
    """The sets whose pictures torchvision holds as one array; nothing is downloaded."""
    from torchvision import datasets

    part = "train" if training else "test"
    split = {"split": part} if kind in {"SVHN", "STL10"} else {"train": training}
    contents = getattr(datasets, kind)(str(root), download=False, **split)
    pictures = np.asarray(contents.data, dtype=np.uint8)
    if pictures.ndim == 4:
        pictures = pictures.transpose(0, 2, 3, 1)
    labels = contents.labels if kind in {"SVHN", "STL10"} else contents.targets
    names = tuple(contents.classes) if kind in {"FashionMNIST", "STL10"} else ()  # MNIST calls its classes `0 - zero`
    return Arrays(lambda: pictures, [int(i) for i in labels], names)
