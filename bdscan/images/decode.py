"""One picture, from its bytes to the numbers a net takes."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# What a reader gives for each picture asked for: the picture, still undecoded, or why it cannot be had.
PictureReader = Callable[[Sequence[int]], Iterator[tuple[int, "Image.Image | Exception"]]]
Pictures = np.ndarray[Any, np.dtype[np.uint8]]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")  # no decoder is tried that the suffixes do not name
_MAX_PIXELS = 50_000_000  # more than any camera in common use, and 200 MB decoded
MAX_FILE_BYTES = 64 << 20  # bytes of one file
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,  # of a header that promises more than there is
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith(".")


def open_picture(stream: BinaryIO) -> Image.Image:
    """The header alone; what declares itself too large is refused before anything is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = Image.open(stream, formats=_FORMATS)
    if not 0 < picture.width * picture.height <= _MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} pixels are too many, or none")
    return picture


def channels(picture: Image.Image) -> int:
    return 1 if picture.mode in {"1", "L", "LA"} or picture.mode.startswith("I") else 3


def fit_to(picture: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """The short side scaled (bilinear, antialiased), the middle cut out, grey or colour as the net wants."""
    depth, height, width = shape
    if picture.mode.startswith("I"):  # 16 bits: keep the upper eight, Pillow would clip
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    picture = picture.convert("L" if depth == 1 else "RGB")
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return torch.from_numpy(array.copy()).reshape(height, width, depth).permute(2, 0, 1)
