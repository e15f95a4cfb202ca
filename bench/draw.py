"""Draws images into `.npz` files that share none: `python bench/draw.py DATA FILE.npz=COUNT ...`, class by class."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bdscan.images.source import open_images


def main(spec: str, requests: list[str]) -> None:
    files = [(path, int(count)) for path, _, count in (request.rpartition("=") for request in requests)]
    source = open_images(spec)
    assert source.size is not None, "the images differ in size"
    drawn = source.load(source.size, limit=sum(count for _, count in files))
    # One of each class after the other, so that every file has the classes in equal parts.
    order = torch.stack([(drawn.labels[: i + 1] == drawn.labels[i]).sum() for i in range(len(drawn))]).argsort(
        stable=True
    )
    for (path, _), chosen in zip(files, order.split([count for _, count in files]), strict=True):
        drawn.take(chosen).save(Path(path))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
