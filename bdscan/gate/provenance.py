"""Which bytes a verdict rests on: the digests of what was read beside the model, and of what was written."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdscan.facts.deadline import OutOfTime
from bdscan.facts.problem import Problem
from bdscan.load.source.digest import Reading
from bdscan.load.source.folders import resolve
from bdscan.report import Input

MAX_BYTES = 2 << 30  # bytes of one input, a second or two of hashing; beyond it no digest is taken
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "onnx", "safetensors")


def inputs(by_role: Mapping[str, str | Path | None]) -> tuple[Input, ...]:
    """Each of those that were given, under its role: a file, a folder, or `cifar10:ROOT` and its like."""
    given = {role: str(spec) for role, spec in by_role.items() if spec}
    return tuple(Input(role=role, path=spec, digest=digest(path_of(spec))) for role, spec in given.items())


def factory_file(arch: str) -> str | None:
    """The user's own file behind `--arch FILE.py:NAME`, else None."""
    file, colon, _ = arch.rpartition(":")
    return file if colon and file.endswith(".py") else None


def source_file(source: str | None) -> str | None:
    """The file or folder behind `--source`."""
    return source and (factory_file(source) or source)


def digest(path: Path) -> dict[str, str]:
    """Under in-toto's names; empty for what cannot be read, or is too large to be read for this alone."""
    try:
        if path.is_file():
            return {"sha256": sha256_of(path)} if path.stat().st_size <= MAX_BYTES else {}
        return _digest_of_folder(path) if path.is_dir() else {}
    except OSError:
        return {}


def digest_of_model(path: str) -> str | None:
    """As a scan hashes a model; None for what is none, cannot be read, or is too large to be read for this alone."""
    try:
        files = resolve(Path(path)).deciding
        if sum(file.stat().st_size for file in files) <= MAX_BYTES:
            return Reading(Path(path)).digest(files)
    except (OSError, ValueError, Problem, OutOfTime):
        pass
    return None


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


def sha256_of(path: Path) -> str:
    """Of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_request(options: Mapping[str, Any]) -> str:
    """Of the options, the files they name, bdscan's own files and the versions of what it stands on."""
    clean, classes = options["clean"], options["classes"]
    images = _images(clean) if clean else ""
    names = sha256_of(classes) if classes and classes.is_file() else ""
    request = json.dumps(options, default=str, sort_keys=True)
    parts = (request, images, names, _own_files(), *_versions())
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _images(spec: str) -> str:
    """Of the file or folder behind `--clean`, also behind `cifar10:ROOT`."""
    root = path_of(spec)
    paths = sorted(walk(root)) if root.is_dir() else [root] if root.is_file() else []
    whole = sum(path.stat().st_size for path in paths if path.is_file()) <= MAX_BYTES
    digest = hashlib.sha256()
    for path in paths:  # folders too: a class without pictures still takes a number
        digest.update(f"{os.path.relpath(path, root)}\0{_content(path, whole)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(path: Path, whole: bool) -> str:
    if not path.is_file():
        return ""
    status = path.stat()
    return sha256_of(path) if whole else f"{status.st_size} {status.st_mtime_ns}"


def _own_files() -> str:
    """Of bdscan itself: probes, thresholds and the statistics of clean nets."""
    home = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(each for each in home.rglob("*") if each.suffix in {".py", ".json"}):
        digest.update(f"{path.relative_to(home)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _versions() -> Iterator[str]:
    yield f"python {platform.python_version()}"
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"
