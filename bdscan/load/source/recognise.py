"""Which files are models, by their names and, where those say little, their first bytes."""

from __future__ import annotations

import stat
from pathlib import Path

from bdscan.load.archive.formats import LFS

# Nobody gives these names to anything else: such a file is told of even where it cannot be read.
MODEL_SUFFIXES = frozenset(
    {".pt", ".pth", ".pt2", ".th", ".ckpt", ".ptl", ".jit", ".torchscript", ".safetensors", ".onnx"}
)
# These may be anything, so the first bytes are asked; a number comes from names like `epoch.10`.
_UNCLEAR_SUFFIXES = frozenset({"", ".bin", ".tar", ".pkl", ".pickle", ".joblib", ".model", ".weights", ".zip", ".dat"})
_HEAD = 512  # bytes
# What stands first in the zip files that torch has written over the years.
_FIRST_MEMBERS = frozenset({"data.pkl", "version", "byteorder", "archive_format", ".format_version", "constants.pkl"})


def is_model(path: Path) -> bool:
    suffix = path.suffix.lower()
    unclear = suffix in _UNCLEAR_SUFFIXES or suffix[1:].isdecimal()
    try:
        special = not stat.S_ISREG(path.stat().st_mode)  # a pipe or a device is never opened
        return not special and (suffix in MODEL_SUFFIXES or (unclear and _begins_like_one(path)))
    except OSError:  # whoever tries to read it will say why it cannot be
        return suffix in MODEL_SUFFIXES or unclear


def _begins_like_one(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")
    safetensors = head[8:9] == b"{" and head[6:8] == b"\0\0"
    return pickled or safetensors or head.startswith(LFS) or _torch_zip(head)


def _torch_zip(head: bytes) -> bool:
    if head[:4] != b"PK\x03\x04":
        return False
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")
    return name.rpartition("/")[2] in _FIRST_MEMBERS and "/" in name
