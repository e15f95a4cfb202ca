"""Models that lie elsewhere, copied here for as long as one is looked at.

Nothing is fetched but what the user gave the address of. It goes into a folder that nobody else can read, within a
limit, and the folder goes away again, also after Ctrl-C.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.source import remote
from bdscan.load.source.addresses import MAX_MODEL_MB, Address, explained, parse
from bdscan.load.source.gather import Gathered

_MAX_FILES = 10_000  # a registered model has about ten


@contextmanager
def local_copy(
    name: str,
    max_bytes: float = MAX_MODEL_MB * 1e6,
    on_bytes: Callable[[int, int], None] = lambda received, expected: None,
) -> Iterator[Path]:
    """The path where the model lies while the block lasts: its own, or that of a copy of what the address names."""
    address = parse(name)
    if address is None:
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="bdscan-", ignore_cleanup_errors=True) as folder:
        fetch = remote.fetch if address.scheme else _registered
        yield fetch(address, Path(folder), max_bytes, on_bytes)


def _registered(address: Address, into: Path, max_bytes: float, on_bytes: Callable[[int, int], None]) -> Path:
    """The one model that MLflow has under `models:/NAME/VERSION` or `models:/NAME@ALIAS`; it is asked for files only,
    it loads nothing."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is one of our own
    from mlflow import artifacts

    with explained(address):
        size = sum(_sizes(address))
        address.check_size(size, max_bytes)
        on_bytes(0, size)
        folder = artifacts.download_artifacts(artifact_uri=address.text, dst_path=str(into))
        on_bytes(size, size)
    return _only_model(address, Path(folder))


def _sizes(address: Address) -> Iterator[int]:
    """Of every file, before any is fetched."""
    from mlflow import artifacts

    waiting, files = [address.text], 0
    while waiting:
        for entry in artifacts.list_artifacts(artifact_uri=waiting.pop()):
            files += 1
            if files > _MAX_FILES:
                raise Problem(f"`{address.shown}` holds too many files for a model")
            if entry.is_dir:
                waiting.append(f"{address.text.rstrip('/')}/{entry.path}")
            else:
                yield entry.file_size or 0


def _only_model(address: Address, downloaded: Path) -> Path:
    """Whatever else MLflow keeps beside it, the version is one model."""
    if not downloaded.is_dir():
        return downloaded
    models = Gathered().folder(downloaded)
    if len(models) == 1:
        return models[0]
    if not models:
        message = f"`{address.shown}` holds no model file of a kind that is known here"
        raise Problem(message, hint="PyTorch, safetensors and ONNX files can be read")
    names = ", ".join(f"`{each.relative_to(downloaded)}`" for each in models[:4])
    raise Problem(f"`{address.shown}` holds {len(models)} model files: {names}", hint="inspect them one by one")
