"""Fetches a model from MLflow's registry: `models:/NAME/VERSION` or `models:/NAME@ALIAS`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.source.addresses import Tell, shown, too_large
from bdscan.load.source.gather import gather
from bdscan.load.source.remote import explained

_MOST_FILES = 10_000  # a registered model has about ten


def fetch(address: str, into: Path, most: float, tell: Tell) -> Path:
    """The one model among the artifacts of that version; MLflow is asked for files only, it loads nothing."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is one of our own
    from mlflow import artifacts

    with explained(address):
        size = sum(_sizes(address))
        if size > most:
            raise too_large(address, most)
        tell(0, size)
        folder = artifacts.download_artifacts(artifact_uri=address, dst_path=str(into))
        tell(size, size)
    return _only(address, Path(folder))


def _sizes(address: str) -> Iterator[int]:
    """Of every file, before any is fetched."""
    from mlflow import artifacts

    waiting, files = [address], 0
    while waiting:
        for entry in artifacts.list_artifacts(artifact_uri=waiting.pop()):
            files += 1
            if files > _MOST_FILES:
                raise Problem(f"`{shown(address)}` holds too many files for a model")
            if entry.is_dir:
                waiting.append(f"{address.rstrip('/')}/{entry.path}")
            else:
                yield entry.file_size or 0


def _only(address: str, folder: Path) -> Path:
    """Whatever else MLflow keeps beside it, the version is one model."""
    found = gather([str(folder)])
    if len(found.models) == 1:
        return Path(found.models[0])
    if not found.models:
        message = f"`{shown(address)}` holds no model file of a kind that is known here"
        raise Problem(message, hint="PyTorch, safetensors and ONNX files can be read")
    names = ", ".join(f"`{Path(each).relative_to(folder)}`" for each in found.models[:4])
    raise Problem(f"`{shown(address)}` holds {len(found.models)} model files: {names}", hint="inspect them one by one")
