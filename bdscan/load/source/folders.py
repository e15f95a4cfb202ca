"""Which file or files of a model folder hold the weights; an index says which of several holds which tensor."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import unique_keys
from bdscan.load.danger import Danger
from bdscan.load.source.onnx_data import data_files

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm and Hugging Face name them; the safer one first
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
# Of those that are there, the first one is read.
_CHOICES = tuple(name for pair in zip(WEIGHT_FILES, INDEX_FILES, strict=True) for name in pair)
DESCRIPTIONS = ("config.json", "preprocessor_config.json")  # what a model folder says of its weights
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
    others: tuple[Path, ...] = ()  # weights of the same folder that another reader would take
    beside: tuple[Path, ...] = ()  # descriptions, and the files in which an ONNX graph keeps its tensors

    @property
    def files(self) -> tuple[Path, ...]:
        """What holds the tensors."""
        return self.shards or (self.weights,)

    @property
    def deciding(self) -> tuple[Path, ...]:
        """All that the answer depends on: what has to be hashed, and must not change while it is looked at."""
        return tuple(sorted({self.weights, *self.shards, *self.others, *self.beside}))


def resolve(path: Path) -> ModelFiles:
    """A file is itself; a folder must hold `config.json` and weights."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be reached"
        raise Problem(f"`{path}` cannot be read: {reason}") from None
    if stat.S_ISREG(mode):
        return ModelFiles(path, beside=data_files(path))
    if not stat.S_ISDIR(mode):
        raise Problem(f"`{path}` is neither a file nor a folder")
    return _inside(path)


def _inside(folder: Path) -> ModelFiles:
    weight_files = [file for name in _CHOICES if (file := own_file(folder, name)) is not None]
    if not weight_files:
        message = f"the folder `{folder}` holds no `model.safetensors` and no `pytorch_model.bin`"
        raise Problem(message, hint="name the model file itself")
    dangers = []
    for other in weight_files[1:]:
        what = "whose net was not looked at" if other.name in WEIGHT_FILES else "which was not looked at"
        dangers.append(Danger(Level.NOTE, f"the folder also holds `{other.name}`, {what}", str(other)))
    config = _config(folder)
    if "auto_map" in config:
        message = "`config.json` asks for Python files of its own (`auto_map`), which are ignored here"
        dangers.append(Danger(Level.SUSPECT, message, "config.json"))
    others = tuple(file for file in weight_files[1:] if file.name in WEIGHT_FILES)
    beside = tuple(file for name in DESCRIPTIONS if (file := own_file(folder, name)) is not None)
    if long := next((file for file in beside if file.stat().st_size > _MAX_CONFIG), None):
        raise Problem(f"`{long}` is too long for the description of a model")
    return ModelFiles(weight_files[0], config, tuple(dangers), _shards(weight_files[0]), others, beside)


def own_file(folder: Path, name: str) -> Path | None:
    """The folder's file of that name, None where there is none.

    A `Problem` for a pipe, a device, a folder, and for a link that leads elsewhere: what lies there is not the model's.
    A hub's cache keeps the files of a folder in `blobs` beside it, and links to them.
    """
    path = folder / name
    if not os.path.lexists(path):  # unlike Path's own questions it never raises
        return None
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if real.parent not in (home, home.parent.parent / "blobs"):
        raise Problem(f"`{path}` is a link that leads out of its folder")
    try:
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError as error:
        raise Problem(f"`{path}` cannot be read: {error.strerror}") from None
    if not regular:
        raise Problem(f"`{path}` is no ordinary file")
    return path


def described(path: Path, limit: int, what: str) -> object:
    """The JSON in an ordinary file of at most so many bytes, whose keys stand there once."""
    try:
        with path.open("rb") as file:
            text = file.read(limit + 1)
        if len(text) > limit:
            raise Problem(f"`{path}` is too long for {what}")
        return unique_keys.parsed(text)
    except (OSError, ValueError, RecursionError):
        raise Problem(f"`{path}` is not readable as {what}") from None


def preprocessor(folder: Path) -> Mapping[str, object]:
    """What `preprocessor_config.json` says of the pixels; nothing where there is none, or only a model file."""
    path = own_file(folder, DESCRIPTIONS[1])
    value = described(path, _MAX_CONFIG, "the description of a model") if path is not None else {}
    return value if isinstance(value, dict) else {}


def _shards(weights: Path) -> tuple[Path, ...]:
    """The files behind an index, all of which must be there; none where the weights are no index."""
    if weights.name not in INDEX_FILES:
        return ()
    if weights.name != INDEX_FILES[0]:
        message = f"the weights in `{weights.parent}` are split over several pickles"
        raise Problem(message, hint="save them as `model.safetensors`")
    files = [weights.with_name(name) for name in shard_files(read_index(weights))]
    if missing := [file.name for file in files if own_file(weights.parent, file.name) is None]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        shown = ascii(missing[0])[1:-1][:80]
        raise Problem(f"`{shown}`{more} of `{weights.parent}` is not there", hint="fetch the folder again")
    return tuple(files)


def files_with_weights(folder: Path, present: Collection[str]) -> list[str]:
    """Which files hold the weights of a folder whose index, if it has one, is here, and all else is not yet."""
    names = [name for name in _CHOICES if name in present]
    if names and names[0] == INDEX_FILES[0]:
        return shard_files(read_index(folder / INDEX_FILES[0]))
    return [name for name in names[:1] if name in WEIGHT_FILES]


def _config(folder: Path) -> Mapping[str, object]:
    path = own_file(folder, DESCRIPTIONS[0])
    if path is None:
        raise Problem(f"the folder `{folder}` holds no `config.json`", hint="name the model file itself")
    value = described(path, _MAX_CONFIG, "the description of a model")
    if not isinstance(value, dict):
        raise Problem(f"`{path}` does not describe a model")
    return value


def read_index(index: Path) -> dict[str, str]:
    """Tensor name -> file name; a `Problem` where the index is none, or points out of its folder."""
    document = described(index, _MAX_INDEX, "an index of tensors")
    weight_map: object = document.get("weight_map") if isinstance(document, dict) else None
    named = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    if not isinstance(weight_map, dict) or not named or not weight_map:
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
