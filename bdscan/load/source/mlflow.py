"""Fetches a model from MLflow's registry: `models:/NAME/VERSION` or `models:/NAME@ALIAS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.source.addresses import Address, too_large
from bdscan.load.source.driver_errors import explained
from bdscan.load.source.search import ModelSearch

_MAX_FILES = 10_000  # a registered model has about ten


def fetch(address: Address, into: Path, max_bytes: float, on_bytes: Callable[[int, int], None]) -> Path:
    """The one model among the artifacts of that version; MLflow is asked for files only, it loads nothing."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is one of our own
    from mlflow import artifacts

    with explained(address):
        size = sum(_sizes(address))
        if size > max_bytes:
            raise too_large(address, max_bytes)
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
    models = ModelSearch().folder(downloaded)
    if len(models) == 1:
        return models[0]
    if not models:
        message = f"`{address.shown}` holds no model file of a kind that is known here"
        raise Problem(message, hint="PyTorch, safetensors and ONNX files can be read")
    names = ", ".join(f"`{each.relative_to(downloaded)}`" for each in models[:4])
    raise Problem(f"`{address.shown}` holds {len(models)} model files: {names}", hint="inspect them one by one")
