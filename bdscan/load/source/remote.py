"""Fetches a model through fsspec: a file, or a folder's description and weights, piece by piece and within a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bdscan.facts.problem import Problem
from bdscan.load.source import folders
from bdscan.load.source.addresses import Address, explained

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PIECE = 4 << 20  # bytes
_SILENCE = 60  # seconds without a byte after which a web server has gone


def fetch(address: Address, into: Path, max_bytes: float, on_bytes: Callable[[int, int], None]) -> Path:
    """The model under its own name in the folder `into`; a `Problem` where it cannot be had whole."""
    with explained(address):
        system, path = _opened(address)
        info = system.info(path)
        download = _Download(system, address, max_bytes, on_bytes)
        if info["type"] == "directory":
            return download.folder(path, into)
        return download.file(path, into / _name(path), info.get("size"))


def matches(pattern: Address) -> list[str]:
    """The addresses of the files that fit, in order."""
    with explained(pattern):
        system, path = _opened(pattern)
        infos = system.glob(path, detail=True)
        return [system.unstrip_protocol(each) for each in sorted(infos) if infos[each]["type"] != "directory"]


class _Download:
    """One model on its way; what has come counts against the limit."""

    def __init__(
        self, system: AbstractFileSystem, address: Address, max_bytes: float, on_bytes: Callable[[int, int], None]
    ) -> None:
        self.system, self.address, self.max_bytes, self.on_bytes = system, address, max_bytes, on_bytes
        self.expected = self.received = 0

    def folder(self, path: str, into: Path) -> Path:
        """What describes the model and what holds its weights; the rest of a repository stays where it is."""
        infos = {_name(each["name"]): each for each in self.system.ls(path, detail=True)}
        for name in (*folders.DESCRIPTIONS, *folders.INDEX_FILES):
            if name in infos:
                self.file(infos[name]["name"], into / name, infos[name].get("size"))
        for name in folders.files_with_weights(into, infos):
            self.file(infos[name]["name"], into / name, infos[name].get("size"))
        return into

    def file(self, path: str, to: Path, size: int | None) -> Path:
        self.expected += size or 0
        self.address.check_size(self.expected, self.max_bytes)
        received_before = self.received
        with self.system.open(path, "rb", **_streamed(self.system)) as source, to.open("xb") as copy:
            while piece := source.read(_PIECE):
                self.received += len(piece)
                self.address.check_size(self.received, self.max_bytes)
                copy.write(piece)
                self.on_bytes(self.received, max(self.expected, self.received))
        received = self.received - received_before
        if size is not None and received != size:
            message = f"`{self.address.shown}` cannot be fetched: {received:,} of {size:,} bytes came"
            raise Problem(message, hint="try again")
        return to


def _opened(address: Address) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    options = {}
    if address.scheme.startswith("http"):
        from aiohttp import ClientTimeout

        # By itself it hangs up after five minutes, however well the bytes may flow.
        options = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)}}
    system, path = url_to_fs(address.text, **options)
    return system, path


def _streamed(system: AbstractFileSystem) -> Mapping[str, int]:
    """The web in one request: not every server can begin in the middle."""
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return {"block_size": 0} if protocols & {"http", "https"} else {}


def _name(path: str) -> str:
    """The last part of a foreign path, and nothing that would lead out of a folder."""
    name = PurePosixPath(path.partition("?")[0].replace("\\", "/")).name
    return name if name not in ("", ".", "..") and "\0" not in name else "model"
