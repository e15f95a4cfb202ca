"""Which bytes a verdict rests on: the digests of what was read beside the model, and of what was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from bdscan.report import Input

MOST = 2 << 30  # bytes of one input, a second or two of hashing; beyond it no digest is taken


def inputs(named: Mapping[str, str | Path | None]) -> tuple[Input, ...]:
    """Each of those that were given, under its role: a file, a folder, or `cifar10:ROOT` and its like."""
    return tuple(
        Input(role=role, path=str(given), digest=digest(place(str(given)))) for role, given in named.items() if given
    )


def factory(arch: str) -> str | None:
    """The user's own file behind `--arch FILE.py:NAME`, else None."""
    file, colon, _ = arch.rpartition(":")
    return file if colon and file.endswith(".py") else None


def digest(path: Path) -> dict[str, str]:
    """Under in-toto's names; empty for what cannot be read, or is too large to be read for this alone."""
    try:
        if path.is_file():
            return {"sha256": _sha256(path)} if path.stat().st_size <= MOST else {}
        return _of_folder(path) if path.is_dir() else {}
    except OSError:
        return {}


def digest_of_file(path: str) -> str | None:
    """The SHA-256 of the file of that name, if it is one that can be read."""
    return digest(Path(path)).get("sha256") if os.path.isfile(path) else None  # noqa: PTH113 - it never raises


def place(given: str) -> Path:
    """The file or folder behind a path, or behind `cifar10:ROOT` and its like."""
    path = Path(given).expanduser()
    return path if path.exists() else Path(given.partition(":")[2]).expanduser() if ":" in given else path


def _of_folder(root: Path) -> dict[str, str]:
    """`dirHash`, which Go modules have too: the SHA-256 of what `sha256sum` prints for all files, sorted by path."""
    files = {path.relative_to(root).as_posix(): path for path in below(root) if path.is_file()}
    if sum(path.stat().st_size for path in files.values()) > MOST:
        return {}
    lines = sorted((os.fsencode(name), path) for name, path in files.items())
    total = hashlib.sha256()
    for name, path in lines:
        total.update(_sha256(path).encode() + b"  " + name + b"\n")
    return {"dirHash": total.hexdigest()}


def below(root: Path) -> Iterator[Path]:
    """Files and folders; a class folder may be a link, and a link may lead round in circles."""
    seen: set[str] = set()
    for top, inner, names in os.walk(root, followlinks=True):
        yield Path(top)
        if (real := os.path.realpath(top)) in seen:
            inner.clear()
            continue
        seen.add(real)
        yield from (Path(top) / name for name in names)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
