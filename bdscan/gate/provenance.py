"""Which bytes a verdict rests on: the digests of what was read beside the model, and of what was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from bdscan.report import Input

MAX_BYTES = 2 << 30  # bytes of one input, a second or two of hashing; beyond it no digest is taken


def inputs(by_role: Mapping[str, str | Path | None]) -> tuple[Input, ...]:
    """Each of those that were given, under its role: a file, a folder, or `cifar10:ROOT` and its like."""
    given = {role: str(spec) for role, spec in by_role.items() if spec}
    return tuple(Input(role=role, path=spec, digest=digest(path_of(spec))) for role, spec in given.items())


def factory_file(arch: str) -> str | None:
    """The user's own file behind `--arch FILE.py:NAME`, else None."""
    file, colon, _ = arch.rpartition(":")
    return file if colon and file.endswith(".py") else None


def digest(path: Path) -> dict[str, str]:
    """Under in-toto's names; empty for what cannot be read, or is too large to be read for this alone."""
    try:
        if path.is_file():
            return {"sha256": sha256_of(path)} if path.stat().st_size <= MAX_BYTES else {}
        return _digest_of_folder(path) if path.is_dir() else {}
    except OSError:
        return {}


def digest_of_file(path: str) -> str | None:
    """The SHA-256 of the file of that name, if it is one that can be read."""
    return digest(Path(path)).get("sha256") if os.path.isfile(path) else None  # noqa: PTH113 - it never raises


def path_of(spec: str) -> Path:
    """The file or folder behind a path, or behind `cifar10:ROOT` and its like."""
    path = Path(spec).expanduser()
    return path if path.exists() or ":" not in spec else Path(spec.partition(":")[2]).expanduser()


def _digest_of_folder(root: Path) -> dict[str, str]:
    """`dirHash`, which Go modules have too: the SHA-256 of what `sha256sum` prints for all files, sorted by path."""
    files = {path.relative_to(root).as_posix(): path for path in walk(root) if path.is_file()}
    if sum(path.stat().st_size for path in files.values()) > MAX_BYTES:
        return {}
    lines = sorted((os.fsencode(name), path) for name, path in files.items())
    listing = hashlib.sha256()
    for name, path in lines:
        listing.update(sha256_of(path).encode() + b"  " + name + b"\n")
    return {"dirHash": listing.hexdigest()}


def walk(root: Path) -> Iterator[Path]:
    """Files and folders; a class folder may be a link, and a link may lead round in circles."""
    visited: set[str] = set()
    for top, folders, names in os.walk(root, followlinks=True):
        yield Path(top)
        if (real := os.path.realpath(top)) in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (Path(top) / name for name in names)


def sha256_of(*paths: Path) -> str:
    """Of the files one after another, as a scan hashes them."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
