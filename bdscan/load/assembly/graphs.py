"""Files that bring their own graph, and who rebuilds the net of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bdscan.load.contents import Contents
from bdscan.load.graph.rebuilt import Rebuilt


def _onnx(contents: Contents) -> Rebuilt:
    from bdscan.load.onnx import rebuild

    return rebuild(contents.weights)


def _keras(contents: Contents) -> Rebuilt:
    from bdscan.load.keras import rebuild

    return rebuild(contents.weights)


def _torchscript(contents: Contents) -> Rebuilt:
    from bdscan.load.torchscript import rebuild

    return rebuild(contents.weights)


def _exported(contents: Contents) -> Rebuilt:
    from bdscan.load.exported import rebuild

    return rebuild(contents.weights)


READERS: Mapping[str, Callable[[Contents], Rebuilt]] = {
    "keras": _keras,
    "onnx": _onnx,
    "pt2": _exported,
    "torchscript": _torchscript,
}
CODE_DECIDES = (
    "its own code, which decides what it answers, is not what is judged but its weights alone, in the net that "
    "`--arch` names: leave `--arch` out to judge the code"
)
