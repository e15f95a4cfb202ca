"""Files that bring their own graph, and who rebuilds the net of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bdscan.load import exported, keras, onnx, torchscript
from bdscan.load.graph.rebuilt import Rebuilt

READERS: Mapping[str, Callable[[Path], Rebuilt]] = {
    "keras": keras.rebuild,
    "onnx": onnx.rebuild,
    "pt2": exported.rebuild,
    "torchscript": torchscript.rebuild,
}
CODE_DECIDES = (
    "its own code, which decides what it answers, is not what is judged but its weights alone, in the net that "
    "`--arch` names: leave `--arch` out to judge the code"
)
