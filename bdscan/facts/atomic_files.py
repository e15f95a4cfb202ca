"""Files that appear together under their names or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class AtomicFiles:
    """Hands out temporary names beside the final ones; the block's end swaps them in, its failure removes them.

    Where `synced`, nothing is renamed before the disk has it.
    """

    def __init__(self, *, synced: bool = True) -> None:
        self._synced = synced
        self._renames: list[tuple[Path, Path]] = []

    def temporary(self, final: Path) -> Path:
        """Where to write what is to become `final`: on the same disk, so that the swap is one step."""
        temporary = final.parent / f".bdscan-{secrets.token_hex(6)}"
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
                temporary.replace(final)
                new += [] if was_there else [final]
        except BaseException:
            for final in new:
                _remove(final)
            raise
        if self._synced:
            for folder in {final.parent for _, final in self._renames}:
                with suppress(OSError):  # where folders cannot be synced, the files have been
                    _sync(folder)


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
