"""From what was named on the command line to the models behind it: files, folders, patterns, addresses."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bdscan.facts.problem import USAGE, Problem
from bdscan.load.source import addresses, kinds, remote
from bdscan.load.source.folders import INDEX_FILES, WEIGHT_FILES, resolve

_MAX_KINDS = 8  # of skipped files that are listed by name
_VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})
_OBJECT_STORES = frozenset({"objects", "lfs", "annex", "store", "pristine"})  # in them: copies, under names of its own
_MAX_LINKED = 100_000  # entries of a linked folder whose names are read
# Nobody gives these names to anything else: such a file is told of even where it cannot be read.
MODEL_SUFFIXES = frozenset(
    {".pt", ".pth", ".pt2", ".th", ".ckpt", ".ptl", ".jit", ".torchscript", ".safetensors", ".onnx"}
)


class Gathered:
    """The models in the order they were named, those of a folder sorted; each once."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.problems: list[tuple[str, Problem]] = []  # what was named and gives no model
        self.skipped: Counter[str] = Counter()  # suffix -> files that are no models
        self.listed = False  # a folder or a pattern was named: how many models there are was not said
        self._roots: list[Path] = []  # the folders that are searched
        self._files: set[tuple[int, int]] = set()  # device and number: a link to what was found is not a second model

    @property
    def left_out(self) -> str:
        """`skipped 12 files that are no models (.txt 7, .py 5)`, or nothing."""
        count = self.skipped.total()
        if not count:
            return ""
        kinds = sorted(self.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
        listed = [f"{suffix} {number}" for suffix, number in kinds[:_MAX_KINDS]]
        listed += [f"{len(kinds) - _MAX_KINDS} other kinds"] if len(kinds) > _MAX_KINDS else []
        what = "1 file that is no model" if count == 1 else f"{count} files that are no models"
        return f"skipped {what} ({', '.join(listed)})"

    def on_disk(self, name: str) -> list[Path]:
        """`~` stands for the home also where no shell has seen it."""
        try:
            path = Path(name).expanduser()
        except RuntimeError:  # of a user who does not exist: then it is a file's name
            path = Path(name)
        if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
            return self.folder(path)
        return self._pattern(str(path)) if glob.has_magic(name) and not os.path.lexists(path) else [path]

    def elsewhere(self, address: addresses.Address) -> list[str]:
        """The address if it can be fetched; what matches a pattern is chosen by its name, for nothing is fetched."""
        addresses.check(address)
        if "*" not in address.text:
            return [address.text]
        self.listed = True
        try:
            matches = remote.matches(address)
        except Problem as problem:
            self.problems.append((address.shown, problem))
            return []
        models = [name for name in matches if self._counted(Path(name), _named_like_one(Path(name).suffix.lower()))]
        if not models:
            hint = "name a file, or a model's own folder"
            self.problems.append((address.shown, Problem(f"no model matches `{address.shown}`", hint=hint)))
        return models

    def folder(self, folder: Path) -> list[Path]:
        """A model folder is one model; any other is searched."""
        self.listed |= not _is_model_folder(folder)
        self._roots.append(Path(os.path.realpath(folder)))
        problems_before = len(self.problems)
        paths = list(self._below(folder))
        if not paths and len(self.problems) == problems_before:
            hint = "name the model file itself"
            self.problems.append((str(folder), Problem(f"the folder `{folder}` holds no model", hint=hint)))
        return self._new(paths)

    def _pattern(self, pattern: str) -> list[Path]:
        self.listed = True
        paths: list[Path] = []
        for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
            path = Path(match)
            self._roots += [Path(os.path.realpath(path))] if path.is_dir() else []
            paths += self._below(path) if path.is_dir() else [path] if self._counted(path, _is_model(path)) else []
        if not paths:
            hint = "the shell and bdscan both know `*`, `?` and `[...]`"
            self.problems.append((pattern, Problem(f"no model matches `{pattern}`", hint=hint)))
        return self._new(paths)

    def _below(self, folder: Path) -> Iterator[Path]:
        """Depth first, by name. What else lies in a model folder is looked at too: that is where things are hidden."""
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append((str(folder), Problem(f"the folder `{folder}` cannot be read: {error.strerror}")))
            return
        reported = _files_of_model(folder) if _is_model_folder(folder) else frozenset[str]()
        if reported:
            yield folder
        for entry in inside:
            path = Path(entry.path)
            if entry.name in _VERSION_CONTROL:
                self.skipped[entry.name] += 1
                yield from self._beside_objects(path)
            elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
                self._link(path)
            elif entry.is_dir(follow_symlinks=False):
                yield from self._below(path)
            elif entry.name not in reported and self._counted(path, _is_model(path)):
                yield path

    def _beside_objects(self, folder: Path) -> Iterator[Path]:
        """What hides in a version control's folder; its own files are not worth counting."""
        for top, folders, names in os.walk(folder):
            folders[:] = sorted(set(folders) - _OBJECT_STORES)
            yield from (path for name in sorted(names) if _is_model(path := Path(top) / name))

    def _link(self, path: Path) -> None:
        """A linked folder is not entered: it may lead round in circles, or out of what was named."""
        self.skipped["linked folder"] += 1
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(root) for root in self._roots) and _names_a_model(target):
            message = f"the folder `{path}` is a link to one elsewhere, whose models were not looked at"
            self.problems.append((str(path), Problem(message, hint="name the folder itself")))

    def _counted(self, path: Path, model: bool) -> bool:
        """Whether it is a model; what is none is counted."""
        if not model:
            self.skipped[path.suffix.lower() or "no suffix"] += 1
        return model

    def _new(self, paths: list[Path]) -> list[Path]:
        new = []
        for path in paths:
            try:
                status = path.stat()
            except (OSError, ValueError):  # whoever tries to read it will say why it cannot be
                new.append(path)
                continue
            if (status.st_dev, status.st_ino) not in self._files:
                new.append(path)
            self._files.add((status.st_dev, status.st_ino))
        return new


def gather(names: Sequence[str]) -> Gathered:
    """Every file that was named, and every model in the folders and behind the patterns that were."""
    gathered = Gathered()
    for name in names:
        address = addresses.parse(name)
        try:
            gathered.models += map(str, gathered.elsewhere(address) if address else gathered.on_disk(name))
        except Problem as problem:
            if problem.status == USAGE:
                raise
            gathered.problems.append((addresses.shown(name), problem))
        except (OSError, ValueError) as error:
            told = Problem(f"`{addresses.shown(name)}` cannot be reached: {error}")
            gathered.problems.append((addresses.shown(name), told))
    return gathered


def _is_model_folder(folder: Path) -> bool:
    """Whether `load` would take the folder for one model."""
    names = {name for name in ("config.json", *WEIGHT_FILES, *INDEX_FILES) if os.path.lexists(folder / name)}
    return "config.json" in names and len(names) > 1


def _files_of_model(folder: Path) -> frozenset[str]:
    """The files that the folder's own report is about."""
    try:
        files = [file.name for file in resolve(folder).files]
    except Problem:  # then the folder's report says what is missing, and each file has one of its own
        files = []
    return frozenset({"config.json", *INDEX_FILES, *files})


def _is_model(path: Path) -> bool:
    """By its name and, where that says little, by its bytes."""
    suffix = path.suffix.lower()
    if suffix in MODEL_SUFFIXES:
        return True
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a pipe or a device is never opened
            return False
        with path.open("rb") as file:
            return kinds.is_model(file, path.name)
    except (OSError, ValueError):  # whoever tries to read it will say why it cannot be
        return kinds.unclear(suffix)


def _named_like_one(suffix: str) -> bool:
    """What cannot be opened is taken for a model where its name does not say otherwise."""
    return suffix in MODEL_SUFFIXES or kinds.unclear(suffix)


def _names_a_model(folder: Path) -> bool:
    """By names alone: nothing is opened where nobody pointed to."""
    entries = 0
    for _, folders, names in os.walk(folder):
        entries += len(folders) + len(names)
        suffixes = (Path(name).suffix.lower() for name in names)
        if entries > _MAX_LINKED or any(map(_named_like_one, suffixes)):
            return True
    return False
