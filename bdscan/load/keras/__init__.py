"""Keras files rebuilt as torch nets: their configuration and their arrays read as data, without Keras."""

from __future__ import annotations

from pathlib import Path

from bdscan.load.graph.obstacles import rebuilding
from bdscan.load.graph.rebuilt import Rebuilt
from bdscan.load.keras.file import KerasFile
from bdscan.load.keras.model import graph_of
from bdscan.load.onnx import rebuilt
from bdscan.load.onnx.graph import Graph


def rebuild(path: Path) -> Rebuilt:
    """The net that the configuration describes, with the file's arrays in it."""
    file = KerasFile.read(path)

    def read() -> Graph:
        with rebuilding(path):
            return graph_of(file, file.arrays)

    return rebuilt(read, path, "keras model")
