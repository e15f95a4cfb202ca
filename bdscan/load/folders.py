"""Which file of a model folder holds the weights."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bdscan.finding import Level
from bdscan.load.danger import Danger
from bdscan.problem import Problem

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as timm and Hugging Face name them; the safer one first
SHARDED = tuple(f"{name}.index.json" for name in WEIGHTS)
_LONGEST_CONFIG = 4 << 20  # bytes; with the names of ImageNet-21k's classes it is about one megabyte


@dataclass(frozen=True)
class Folder:
    """The weights, and what stands beside them."""

    weights: Path
    config: Mapping[str, object] | None = None
    dangers: tuple[Danger, ...] = ()


def resolve(path: Path) -> Folder:
    """A file is itself; a folder must hold `config.json` and weights."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be reached"
        raise Problem(f"`{path}` cannot be read: {reason}") from None
    if stat.S_ISREG(mode):
        return Folder(path)
    if not stat.S_ISDIR(mode):
        raise Problem(f"`{path}` is neither a file nor a folder")
    return _inside(path)


def _inside(folder: Path) -> Folder:
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        if any((folder / name).is_file() for name in SHARDED):
            raise Problem(
                f"the weights in `{folder}` are split over several files", hint="save them as one `model.safetensors`"
            )
        raise Problem(
            f"the folder `{folder}` holds no `model.safetensors` and no `pytorch_model.bin`",
            hint="name the model file itself",
        )
    dangers = []
    if len(found) > 1:
        message = f"the folder also holds `{found[1].name}`, which was not looked at"
        dangers.append(Danger(level=Level.NOTE, message=message, where=str(found[1])))
    config = _config(folder / "config.json")
    if "auto_map" in config:
        message = "`config.json` asks for Python files of its own (`auto_map`), which are ignored here"
        dangers.append(Danger(level=Level.SUSPECT, message=message, where="config.json"))
    return Folder(found[0], config, tuple(dangers))


def _config(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > _LONGEST_CONFIG:
            raise Problem(f"`{path}` is too long for the description of a model")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(f"the folder `{path.parent}` holds no `config.json`", hint="name the model file itself") from None
    except (OSError, ValueError, RecursionError):
        raise Problem(f"`{path}` is not readable JSON") from None
    if not isinstance(value, dict):
        raise Problem(f"`{path}` does not describe a model")
    return value
