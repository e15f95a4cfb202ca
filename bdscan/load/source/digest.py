"""One SHA-256 for everything that a model's answer depends on, and whether it is still what was hashed."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bdscan.facts.problem import Problem
from bdscan.load.danger import FileExamination

Examine = Callable[[mmap.mmap], FileExamination]


class Stamp(NamedTuple):
    """What changes whenever somebody writes to a file, or puts another in its place."""

    device: int
    number: int
    size: int
    written: int
    changed: int


def stamp_of(status: os.stat_result) -> Stamp:
    """A file as it is at this moment."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Reading:
    """Goes through a model's files, each hashed once; a problem with one hides nothing that is found in another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hashes: dict[Path, str] = {}
        self.stamps: dict[Path, Stamp] = {}  # of the hashed files, as they were before
        self.problems: list[Problem] = []

    def examined(self, files: Iterable[Path], examine: Examine) -> Iterator[FileExamination]:
        """What each file holds; nothing for one of which that cannot be said."""
        for file in files:
            try:
                yield self._read(file, examine)
            except Problem as problem:
                told = problem.message
                message = told if told.startswith("`") else f"`{self._path}` cannot be judged: {told}"
                self.problems.append(Problem(message, hint=problem.hint, status=problem.status))

    def digest(self, files: Iterable[Path]) -> str:
        """Of a single file its own; of several, that of the list that `sha256sum` prints for them, sorted by name."""
        for file in files:
            if file not in self._hashes:
                self._read(file)
        if len(self._hashes) == 1:
            return next(iter(self._hashes.values()))
        root = self._path if self._path.is_dir() else self._path.parent
        lines = sorted((os.fsencode(file.relative_to(root).as_posix()), sha) for file, sha in self._hashes.items())
        return hashlib.sha256(b"".join(sha.encode() + b"  " + name + b"\n" for name, sha in lines)).hexdigest()

    def _read(self, place: Path, examine: Examine = lambda _: FileExamination("")) -> FileExamination:
        """The bytes that are looked at are those that are hashed."""
        try:
            with place.open("rb") as file:
                status = os.fstat(file.fileno())
                self.stamps[place] = stamp_of(status)
                self._hashes[place] = hashlib.file_digest(file, "sha256").hexdigest()
                if status.st_size == 0:
                    raise Problem(f"`{place}` is empty", hint="fetch the file again")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return examine(data)
        except OSError as error:
            raise Problem(f"`{place}` cannot be read: {error.strerror}") from None
