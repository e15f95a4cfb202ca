"""What a Keras file holds, read with h5py: its configuration, and what of it would run when Keras loads it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from mmap import mmap
from typing import Any

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.danger import Danger
from bdscan.load.pickle.effects import quoted

MAGIC = b"\x89HDF\r\n\x1a\n"
PLACES = (0, 512, 1024, 2048)  # bytes of the user's own may come first
CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # members of a `.keras` zip
MAX_CONFIG = 64 << 20  # bytes; the largest published nets describe themselves in one
_MAX_DEPTH = 100  # tables in tables
_KERAS = ("keras", "tf_keras", "tensorflow", "keras_core", "keras_cv", "keras_hub", "keras_nlp")
_WHOLE = "save the whole model, as `model.save(...)` does, not its weights alone"

Json = object


class _Bytes(io.RawIOBase):
    """A part of some bytes, as a file: h5py reads only what it needs."""

    def __init__(self, data: bytes | mmap) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._data))[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def is_hdf5(data: bytes | mmap) -> bool:
    return any(data[place : place + len(MAGIC)] == MAGIC for place in PLACES)


def opened(data: bytes | mmap) -> Any:
    """The HDF5 file in these bytes; a `Problem` where it is none, or nobody can read it here."""
    try:
        import h5py
    except ImportError:
        raise Problem("it is a Keras file, and h5py is not installed", hint='pip install "bdscan[keras]"') from None
    try:
        return h5py.File(io.BufferedReader(_Bytes(data)), "r")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Problem("it is a damaged or truncated HDF5 file", hint="fetch the file again") from error


def config_in(file: Any) -> Json:
    """The description of the model that an HDF5 file carries."""
    try:
        text = file.attrs.get("model_config") if "model_config" in file.attrs else None
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise Problem("it is a damaged HDF5 file", hint="fetch the file again") from error
    if text is None:
        raise Problem("it is an HDF5 file without a model's description: weights alone, or no Keras file", hint=_WHOLE)
    return parsed(text)


def parsed(text: object) -> Json:
    """A configuration, within bounds."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    if not isinstance(data, bytes) or len(data) > MAX_CONFIG:
        raise Problem("its description of the model is no text, or far too long")
    try:
        value: Json = json.loads(data)
    except (ValueError, RecursionError):
        raise Problem("its description of the model is no sound JSON") from None
    return value


def dangers(config: Json, where: str) -> Iterator[Danger]:
    """What Keras would run, or fetch from elsewhere, to build the model."""
    seen = set[str]()
    for table, depth in _tables(config):
        if depth > _MAX_DEPTH:
            yield Danger(Level.SUSPECT, "its description of the model is nested without end", where)
            return
        message = _lambda(table) or _foreign(table)
        if message and message not in seen:
            seen.add(message)
            yield Danger(Level.BACKDOOR, message, where)


def _tables(config: Json) -> Iterator[tuple[dict[object, object], int]]:
    waiting: list[tuple[object, int]] = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict):
            yield value, depth
        if isinstance(value, dict | list):
            waiting += [(part, depth + 1) for part in (value.values() if isinstance(value, dict) else value)]


def _lambda(table: dict[object, object]) -> str:
    """Python's bytecode, or the name of a function, as a layer."""
    name, config = table.get("class_name"), table.get("config")
    if name == "__lambda__":
        return "it carries Python code as bytes (`__lambda__`), which Keras would run"
    if name != "Lambda" or not isinstance(config, dict):
        return ""
    called = quoted(str(config.get("name", "")))
    if config.get("function_type") == "function":
        return f"its Lambda layer {called} calls a function that it names, {quoted(str(config.get('function')))}"
    return f"its Lambda layer {called} carries Python code as bytes, which Keras would run"


def _foreign(table: dict[object, object]) -> str:
    """A module of Python's own, from which Keras would import what it is told to."""
    module, name = table.get("module"), table.get("class_name")
    if not isinstance(module, str) or not isinstance(name, str):
        return ""
    root = module.partition(".")[0]
    called = table.get("config") if name == "function" else name
    harmless = root in _KERAS or root not in sys.stdlib_module_names or (root == "builtins" and name == "function")
    if harmless and not (root == "builtins" and str(called) in ("eval", "exec", "__import__", "compile", "open")):
        return ""
    return f"it has Keras import {quoted(f'{module}.{called}')}, which no model needs"
