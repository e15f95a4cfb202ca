"""Which file or files of a model folder hold the weights; an index says which of several holds which tensor."""

from __future__ import annotations

import json
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.danger import Danger

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm and Hugging Face name them; the safer one first
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
# Of those that are there, the first one is read.
_CHOICES = tuple(name for pair in zip(WEIGHT_FILES, INDEX_FILES, strict=True) for name in pair)
_MAX_INDEX = 25 << 20  # bytes, as for a safetensors header: it names the same tensors
_MAX_SHARDS = 1000  # files
_MAX_CONFIG = 4 << 20  # bytes; with the names of ImageNet-21k's classes it is about one megabyte


@dataclass(frozen=True)
class ModelFiles:
    """The weights, and what stands beside them."""

    weights: Path
    config: Mapping[str, object] | None = None
    dangers: tuple[Danger, ...] = ()
    shards: tuple[Path, ...] = ()  # the files with the tensors, where `weights` only says which lies where

    @property
    def files(self) -> tuple[Path, ...]:
        """What holds the tensors, in the order in which it is hashed."""
        return self.shards or (self.weights,)


def resolve(path: Path) -> ModelFiles:
    """A file is itself; a folder must hold `config.json` and weights."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be reached"
        raise Problem(f"`{path}` cannot be read: {reason}") from None
    if stat.S_ISREG(mode):
        return ModelFiles(path)
    if not stat.S_ISDIR(mode):
        raise Problem(f"`{path}` is neither a file nor a folder")
    return _inside(path)


def _inside(folder: Path) -> ModelFiles:
    weight_files = [folder / name for name in _CHOICES if (folder / name).is_file()]
    if not weight_files:
        message = f"the folder `{folder}` holds no `model.safetensors` and no `pytorch_model.bin`"
        raise Problem(message, hint="name the model file itself")
    dangers = [
        Danger(Level.NOTE, f"the folder also holds `{other.name}`, which was not looked at", str(other))
        for other in weight_files[1:]
    ]
    config = _config(folder / "config.json")
    if "auto_map" in config:
        message = "`config.json` asks for Python files of its own (`auto_map`), which are ignored here"
        dangers.append(Danger(Level.SUSPECT, message, "config.json"))
    return ModelFiles(weight_files[0], config, tuple(dangers), _shards(weight_files[0]))


def _shards(weights: Path) -> tuple[Path, ...]:
    """The files behind an index, all of which must be there; none where the weights are no index."""
    if weights.name not in INDEX_FILES:
        return ()
    if weights.name != INDEX_FILES[0]:
        message = f"the weights in `{weights.parent}` are split over several pickles"
        raise Problem(message, hint="save them as `model.safetensors`")
    files = [weights.with_name(name) for name in shard_files(read_index(weights))]
    if missing := [file.name for file in files if not file.is_file()]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise Problem(f"`{missing[0]}`{more} of `{weights.parent}` is not there", hint="fetch the folder again")
    return tuple(files)


def files_with_weights(folder: Path, present: Collection[str]) -> list[str]:
    """Which files hold the weights of a folder whose index, if it has one, is here, and all else is not yet."""
    names = [name for name in _CHOICES if name in present]
    if names and names[0] == INDEX_FILES[0]:
        return shard_files(read_index(folder / INDEX_FILES[0]))
    return [name for name in names[:1] if name in WEIGHT_FILES]


def _config(path: Path) -> Mapping[str, object]:
    try:
        if path.stat().st_size > _MAX_CONFIG:
            raise Problem(f"`{path}` is too long for the description of a model")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(f"the folder `{path.parent}` holds no `config.json`", hint="name the model file itself") from None
    except (OSError, ValueError, RecursionError):
        raise Problem(f"`{path}` is not readable JSON") from None
    if not isinstance(value, dict):
        raise Problem(f"`{path}` does not describe a model")
    return value


def read_index(index: Path) -> dict[str, str]:
    """Tensor name -> file name; a `Problem` where the index is none, or points out of its folder."""
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise Problem(f"`{index}` is too long for an index of tensors")
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Problem(f"`{index}` is not readable as an index of tensors") from None
    named = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    if not named or not weight_map:
        raise Problem(f"`{index}` does not say where the tensors lie")
    for name in shard_files(weight_map):
        if Path(name).name != name or not name.endswith(".safetensors") or "\\" in name or "\0" in name:
            raise Problem(f"`{index}` names a file that is none of its folder's: `{ascii(name)[1:-1][:80]}`")
    return weight_map


def shard_files(weight_map: Mapping[str, str]) -> list[str]:
    """The files, sorted by name: the order in which they are hashed."""
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MAX_SHARDS:
        raise Problem(f"its index names {len(shards):,} files, more than any model needs")
    return shards


def check_index(weight_map: Mapping[str, str], tensors: Mapping[str, Collection[str]]) -> None:
    """Each tensor lies in the file that the index says, and in no other: else two readers would read two models."""
    for file, names in tensors.items():
        listed = {name for name, shard in weight_map.items() if shard == file}
        if wrong := sorted(listed.symmetric_difference(names)):
            shown = ascii(wrong[0])[1:-1][:80]
            where = "the index does not say so" if wrong[0] in names else "it is not there"
            raise Problem(f"index and files disagree about the tensor `{shown}` in `{file}`: {where}")
