"""From what was named on the command line to the models behind it: files, folders, patterns, addresses."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.archive.formats import LFS
from bdscan.load.source import addresses
from bdscan.load.source.folders import SHARDED, WEIGHTS, resolve

# Nobody gives these names to anything else: such a file is told of even where it cannot be read.
_MODELS = frozenset({".pt", ".pth", ".pt2", ".th", ".ckpt", ".ptl", ".jit", ".torchscript", ".safetensors", ".onnx"})
# These may be anything, so the first bytes are asked; a number comes from names like `epoch.10`.
_PERHAPS = frozenset({"", ".bin", ".tar", ".pkl", ".pickle", ".joblib", ".model", ".weights", ".zip", ".dat"})
_HISTORY = frozenset({".git", ".hg", ".svn"})  # version control's own files, thousands of them
_HEAD = 512  # bytes
_MOST_KINDS = 8  # of skipped files that are told by name
# What stands first in the zip files that torch has written over the years.
_FIRST = frozenset({"data.pkl", "version", "byteorder", "archive_format", ".format_version", "constants.pkl"})


@dataclass
class Gathered:
    """The models in the order they were named, those of a folder sorted."""

    models: list[str] = field(default_factory=list)
    problems: list[tuple[str, Problem]] = field(default_factory=list)  # what was named and gives no model
    skipped: Counter[str] = field(default_factory=Counter)  # suffix -> files that are no models
    listed: bool = False  # a folder or a pattern was named: how many models there are was not said

    @property
    def left_out(self) -> str:
        """`skipped 12 files that are no models (.txt 7, .py 5)`, or nothing."""
        count = self.skipped.total()
        if not count:
            return ""
        kinds = sorted(self.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
        told = [f"{suffix} {number}" for suffix, number in kinds[:_MOST_KINDS]]
        told += [f"{len(kinds) - _MOST_KINDS} other kinds"] if len(kinds) > _MOST_KINDS else []
        what = "1 file that is no model" if count == 1 else f"{count} files that are no models"
        return f"skipped {what} ({', '.join(told)})"


def gather(named: Sequence[str]) -> Gathered:
    """Every file that was named, and every model in the folders and behind the patterns that were."""
    gathered = Gathered()
    seen: set[tuple[int, int]] = set()  # of what was found by looking: a link to it is not a second model
    for name in named:
        if addresses.is_address(name):
            addresses.check(name)
            gathered.models += _elsewhere(name, gathered) if "*" in name else [name]
            continue
        path = _home(name)
        if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
            found = _folder(path, gathered)
        elif glob.has_magic(name) and not os.path.lexists(path):
            found = _pattern(str(path), gathered)
        else:
            gathered.models.append(str(path))
            continue
        gathered.models += [str(each) for each in found if _first(each, seen)]
    return gathered


def _home(name: str) -> Path:
    """`~` stands for the home also where no shell has seen it."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # of a user who does not exist: then it is a file's name
        return Path(name)


def _first(path: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        about = path.stat()
    except OSError:
        return True
    new = (about.st_dev, about.st_ino) not in seen
    seen.add((about.st_dev, about.st_ino))
    return new


def _folder(folder: Path, gathered: Gathered) -> list[Path]:
    """A model folder is one model; any other is searched."""
    gathered.listed |= not _model(folder)
    broken = len(gathered.problems)
    found = list(_search(folder, gathered))
    if not found and len(gathered.problems) == broken:
        hint = "name the model file itself"
        gathered.problems.append((str(folder), Problem(f"the folder `{folder}` holds no model", hint=hint)))
    return found


def _pattern(pattern: str, gathered: Gathered) -> list[Path]:
    gathered.listed = True
    found: list[Path] = []
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
        path = Path(match)
        found += _search(path, gathered) if path.is_dir() else [path] if _recognised(path, gathered) else []
    if not found:
        problem = Problem(f"no model matches `{pattern}`", hint="the shell and bdscan both know `*`, `?` and `[...]`")
        gathered.problems.append((pattern, problem))
    return found


def _elsewhere(pattern: str, gathered: Gathered) -> list[str]:
    """By their names alone: nothing is fetched to find out what it is."""
    from bdscan.load.source.remote import matches

    gathered.listed = True
    found = []
    try:
        for address in matches(pattern):
            suffix = Path(address).suffix.lower()
            if suffix in _MODELS:
                found.append(address)
            else:
                gathered.skipped[suffix or "no suffix"] += 1
        if not found:
            raise Problem(f"no model matches `{addresses.shown(pattern)}`", hint="name a file, or a model's own folder")
    except Problem as problem:
        gathered.problems.append((addresses.shown(pattern), problem))
    return found


def _search(folder: Path, gathered: Gathered) -> Iterator[Path]:
    """Depth first, by name. Whatever else lies in a model folder is looked at too: that is where things are hidden."""
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        gathered.problems.append((str(folder), Problem(f"the folder `{folder}` cannot be read: {error.strerror}")))
        return
    described = _described(folder) if _model(folder) else frozenset[str]()
    if described:
        yield folder
    for entry in inside:
        path = Path(entry.path)
        if entry.name in _HISTORY:
            gathered.skipped[entry.name] += 1
        elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112
            gathered.skipped["linked folder"] += 1  # it may lead round in circles
        elif entry.is_dir(follow_symlinks=False):
            yield from _search(path, gathered)
        elif entry.name not in described and _recognised(path, gathered):
            yield path


def _model(folder: Path) -> bool:
    """Whether `load` would take the folder for one model."""
    held = {name for name in ("config.json", *WEIGHTS, *SHARDED) if os.path.isfile(folder / name)}  # noqa: PTH113
    return "config.json" in held and len(held) > 1


def _described(folder: Path) -> frozenset[str]:
    """The files that the folder's own report is about."""
    try:
        files = [file.name for file in resolve(folder).files]
    except Problem:  # then the folder's report says what is missing, and each file has one of its own
        files = []
    return frozenset({"config.json", *SHARDED, *files})


def _recognised(path: Path, gathered: Gathered) -> bool:
    """Whether it is a model; what is none is counted."""
    suffix = path.suffix.lower()
    perhaps = suffix in _PERHAPS or suffix[1:].isdecimal()
    try:
        special = not stat.S_ISREG(path.stat().st_mode)  # a pipe or a device is never opened
        model = not special and (suffix in _MODELS or (perhaps and _looks_like_one(path)))
    except OSError:  # whoever tries to read it will say why it cannot be
        model = suffix in _MODELS or perhaps
    if not model:
        gathered.skipped[suffix or "no suffix"] += 1
    return model


def _looks_like_one(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")
    safetensors = head[8:9] == b"{" and head[6:8] == b"\0\0"
    return pickled or safetensors or head.startswith(LFS) or _torch_zip(head)


def _torch_zip(head: bytes) -> bool:
    if head[:4] != b"PK\x03\x04":
        return False
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")
    return name.rpartition("/")[2] in _FIRST and "/" in name
