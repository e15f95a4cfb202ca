"""Where a cleaned model may be written, asked before hours are spent on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from torch import nn

from bdscan.facts.problem import unusable
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import Contents
from bdscan.load.graph.net import StepNet
from bdscan.write.card import TAG, TAG_TRAINED

_SUFFIXES = {  # what the tools that read a file expect of its name; torch.load goes by it too
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".keras": "keras",
    **dict.fromkeys((".h5", ".hdf5"), "hdf5"),
    ".pt2": "pt2",
    **dict.fromkeys((".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"), "pytorch"),
}
NO_EXPORTER, EXPORTER = "writing ONNX needs onnxscript, which is not installed", 'pip install "bdscan[onnx]"'
_RESERVE = 1 << 20  # bytes for the card, the config and the file's own frame
_CARD_HEAD = 2000  # characters in which one of our cards says that it is one


def family(contents: Contents, net: nn.Module) -> str:
    """The form the cleaned model takes: `pytorch`, `safetensors`, `onnx`, `pt2`, `keras` (a zip) or `hdf5`."""
    if contents.format == "keras":
        with contents.weights.open("rb") as file:
            return "keras" if file.read(2) == b"PK" else "hdf5"
    kept = contents.format in ("safetensors", "onnx") or (contents.format == "pt2" and own_graph(net))
    return contents.format if kept else "pytorch"


def own_graph(net: nn.Module) -> bool:
    """Whether it is the graph that stands in the file, and not a net that somebody named or that was found."""
    return isinstance(net, StepNet)


def card_place(contents: Contents, output: Path) -> Path:
    return output / "README.md" if contents.path.is_dir() else output.with_suffix(".md")


def check(contents: Contents, loaded: Loaded, output: Path, onnx: Path | None) -> None:
    """Raises `Problem` for what the files and folders tell would keep a cleaned model from being written there."""
    if contents.shards:
        message = f"the weights in `{contents.path}` are split over several files, and cleaned ones are written as one"
        raise unusable(message, "save them as one `model.safetensors` first")
    for place in (output, onnx) if onnx else (output,):
        _check_not_input(contents, place)
    if contents.path.is_dir():
        _check_folder(output)
    else:
        _check_file(output, family(contents, loaded.suspect.net.net))
        _check_card(card_place(contents, output), output)
    if onnx is not None:
        _check_export(contents, output, onnx)
    _check_spaces(contents, loaded, output, onnx)


def check_new(net: nn.Module, output: Path) -> None:
    """The same for a net that came from no file."""
    if output.suffix.lower() != ".safetensors":
        message = f"`{output}` would hold safetensors, which its name does not say"
        raise unusable(message, f"name it `{output.with_suffix('.safetensors').name}`")
    _check_file(output, "safetensors")
    _check_card(output.with_suffix(".md"), output)
    _check_space(output.absolute().parent, _size_of(net) + _RESERVE, "model")


def _check_not_input(contents: Contents, place: Path) -> None:
    """By what it is, not by what it is called: links lead there too."""
    for mine in (contents.path, *contents.stamps):
        if place.resolve() == mine.resolve() or (place.exists() and place.samefile(mine)):
            raise unusable(f"`{place}` is the input itself, which is evidence", "name another file")
    if contents.path.is_dir() and contents.path.resolve() in place.resolve().parents:
        raise unusable(f"`{place}` lies in the input folder, which is evidence", "name another place")


def _check_folder(output: Path) -> None:
    if _SUFFIXES.get(output.suffix.lower()) or output.is_file():
        raise unusable(f"`{output}` is a file, but the input is a folder and is written as one", "name a folder")
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise unusable(f"`{output}` is there already and not an empty folder", "name a new folder")


def _check_file(output: Path, form: str) -> None:
    if output.is_dir():
        raise unusable(f"`{output}` is a folder", "name the file to be written")
    if output.exists() and not output.is_file():
        raise unusable(f"`{output}` is no ordinary file", "name a file to be written")
    if _SUFFIXES.get(output.suffix.lower(), form) != form:
        suffix = next(suffix for suffix, kind in _SUFFIXES.items() if kind == form)
        message = f"`{output}` would hold a {form} file, as the input is, which `{output.suffix}` contradicts"
        raise unusable(message, f"name it `{output.with_suffix(suffix).name}`")


def _check_card(place: Path, output: Path) -> None:
    """A card of an earlier run may be replaced, a stranger's file may not."""
    if place == output:
        raise unusable(f"`{output}` has the name of a text file", "name it `.pt` or the like")
    try:
        if place.exists() and not place.is_file():
            raise IsADirectoryError
        with place.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_CARD_HEAD)
            ours = TAG in head or TAG_TRAINED in head
    except FileNotFoundError:
        return
    except OSError:
        ours = False
    if not ours:
        message = f"the model card would overwrite `{place}`, which is not one of bdscan's"
        raise unusable(message, "name the output otherwise")


def _check_export(contents: Contents, output: Path, onnx: Path) -> None:
    if contents.format == "onnx":
        raise unusable("the input is an ONNX file, and so is the output", "leave `--onnx` out")
    _check_file(onnx, "onnx")
    if onnx.resolve() == output.resolve() or (contents.path.is_dir() and output.resolve() in onnx.resolve().parents):
        raise unusable(f"`{onnx}` is in the way of the output `{output}`", "name another place")
    if importlib.util.find_spec("onnxscript") is None:
        raise unusable(NO_EXPORTER, EXPORTER)


def _check_spaces(contents: Contents, loaded: Loaded, output: Path, onnx: Path | None) -> None:
    plain = _size_of(loaded.suspect.net.net)
    needs = {output.absolute().parent: max(contents.size, plain) + _RESERVE}
    if onnx is not None:
        folder = onnx.absolute().parent
        needs[folder] = needs.get(folder, 0) + plain + _RESERVE
    for folder, need in needs.items():
        _check_space(folder, need, "cleaned model")


def _size_of(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())


def _check_space(folder: Path, need: int, what: str) -> None:
    """Tried, not asked: permissions do not tell of disks mounted read-only."""
    if not folder.is_dir():
        raise unusable(f"there is no folder `{folder}`", "make it, or name another place")
    try:
        if os.name != "nt" and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unusable(f"nothing can be written to `{folder}`: {error.strerror}", "name another place") from None
    free = shutil.disk_usage(folder).free
    if free < need:
        message = f"`{folder}` has {free >> 20:,} MB free, the {what} needs {-(-need >> 20):,} MB"
        raise unusable(message, "make room or name another place")
