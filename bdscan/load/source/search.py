"""Looks for models in folders and behind patterns, each once."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.source.folders import INDEX_FILES, WEIGHT_FILES, resolve
from bdscan.load.source.recognise import is_model

_VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})  # thousands of files of its own


class ModelSearch:
    """What was found on the way: the problems, and the files that are no models."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, Problem]] = []
        self.skipped: Counter[str] = Counter()  # suffix -> files that are no models
        self.listed = False  # a folder or a pattern was searched: how many models there are was not said
        self._files: set[tuple[int, int]] = set()  # device and number: a link to what was found is not a second model

    def folder(self, folder: Path) -> list[Path]:
        """A model folder is one model; any other is searched."""
        self.listed |= not _is_model_folder(folder)
        problems_before = len(self.problems)
        found = list(self._below(folder))
        if not found and len(self.problems) == problems_before:
            hint = "name the model file itself"
            self.problems.append((str(folder), Problem(f"the folder `{folder}` holds no model", hint=hint)))
        return self._new(found)

    def pattern(self, pattern: str) -> list[Path]:
        self.listed = True
        found: list[Path] = []
        for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
            path = Path(match)
            found += self._below(path) if path.is_dir() else [path] if self._recognised(path) else []
        if not found:
            hint = "the shell and bdscan both know `*`, `?` and `[...]`"
            self.problems.append((pattern, Problem(f"no model matches `{pattern}`", hint=hint)))
        return self._new(found)

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
            elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
                self.skipped["linked folder"] += 1  # it may lead round in circles
            elif entry.is_dir(follow_symlinks=False):
                yield from self._below(path)
            elif entry.name not in reported and self._recognised(path):
                yield path

    def _recognised(self, path: Path) -> bool:
        """Whether it is a model; what is none is counted."""
        model = is_model(path)
        if not model:
            self.skipped[path.suffix.lower() or "no suffix"] += 1
        return model

    def _new(self, found: list[Path]) -> list[Path]:
        new = []
        for path in found:
            try:
                status = path.stat()
            except OSError:
                new.append(path)
                continue
            if (status.st_dev, status.st_ino) not in self._files:
                new.append(path)
            self._files.add((status.st_dev, status.st_ino))
        return new


def _is_model_folder(folder: Path) -> bool:
    """Whether `load` would take the folder for one model."""
    names = {name for name in ("config.json", *WEIGHT_FILES, *INDEX_FILES) if os.path.isfile(folder / name)}  # noqa: PTH113
    return "config.json" in names and len(names) > 1


def _files_of_model(folder: Path) -> frozenset[str]:
    """The files that the folder's own report is about."""
    try:
        files = [file.name for file in resolve(folder).files]
    except Problem:  # then the folder's report says what is missing, and each file has one of its own
        files = []
    return frozenset({"config.json", *INDEX_FILES, *files})
