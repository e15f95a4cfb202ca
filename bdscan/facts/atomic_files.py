"""Files that appear together under their names or not at all."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

# Whose it is: machine, process, and a number of its own.
_TEMPORARY = re.compile(r"\.bdscan-([0-9a-f]{8})-([0-9]+)-[0-9a-f]{12}")
_FORGOTTEN = 24 * 3600  # seconds after which nobody writes any more, also where the process cannot be asked for
_swept: set[Path] = set()  # folders in which nothing is left of earlier calls


class AtomicFiles:
    """Hands out temporary names beside the final ones; the block's end swaps them in, its failure removes them.

    Where `synced`, nothing is renamed before the disk has it.
    """

    def __init__(self, *, synced: bool = True) -> None:
        self._synced = synced
        self._renames: list[tuple[Path, Path]] = []

    def temporary(self, final: Path) -> Path:
        """Where to write what is to become `final`: on the same disk, so that the swap is one step.

        Behind a link that is its target. What is to go to a device or a pipe lies elsewhere until then.
        """
        device = is_device(final)
        final = Path(os.path.realpath(final)) if final.is_symlink() and not device else final
        folder = Path(tempfile.gettempdir()) if device else final.parent
        _sweep(folder)
        temporary = folder / f".bdscan-{_machine()}-{os.getpid()}-{secrets.token_hex(6)}"
        self._renames.append((temporary, final))
        return temporary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for temporary, _ in self._renames:
                _remove(temporary)

    def _commit(self) -> None:
        if self._synced:
            for temporary, _ in self._renames:
                for path in _contents_first(temporary):
                    _sync(path)
        new: list[Path] = []
        try:
            for temporary, final in self._renames:
                was_there = final.exists()
                _put(temporary, final)
                new += [] if was_there else [final]
        except BaseException:
            for final in new:
                _remove(final)
            raise
        if self._synced:
            for folder in {final.parent for _, final in self._renames}:
                with suppress(OSError):  # where folders cannot be synced, the files have been
                    _sync(folder)


def is_device(path: Path) -> bool:
    """A pipe or a terminal, too: whatever nothing may take the place of."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112, PTH113 - they never raise


def _put(temporary: Path, final: Path) -> None:
    if not is_device(final):
        temporary.replace(final)
        return
    with temporary.open("rb") as source, final.open("wb") as target:
        shutil.copyfileobj(source, target)


def _machine() -> str:
    """Process numbers mean something on this machine, and in this container, alone."""
    namespace = Path("/proc/self/ns/pid")
    space = namespace.readlink() if namespace.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _sweep(folder: Path) -> None:
    """Removes what a call that was killed has left behind."""
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and _is_left_over(entry, match[1], int(match[2])):
                _remove(Path(entry.path))


def _is_left_over(entry: os.DirEntry[str], machine: str, process: int) -> bool:
    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _FORGOTTEN:
        return True
    if os.name == "nt" or machine != _machine():  # on Windows the question would end the process
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _contents_first(path: Path) -> Iterator[Path]:
    """Files before the folders they are in."""
    if path.is_dir():
        for child in path.iterdir():
            yield from _contents_first(child)
    yield path


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    opened = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
