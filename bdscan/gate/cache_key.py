"""All that a report depends on beside the model itself, as one text."""

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

from bdscan.gate.provenance import MAX_BYTES, path_of, sha256_of, walk

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "onnx", "safetensors")


def digest_of(options: Mapping[str, Any]) -> str:
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
