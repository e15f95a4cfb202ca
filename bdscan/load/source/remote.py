"""Fetches a model through fsspec: a file, or a folder's description and weights, piece by piece and within a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bdscan.facts.problem import Problem
from bdscan.load.source import folders
from bdscan.load.source.addresses import Tell, shown, too_large

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PIECE = 4 << 20  # bytes
_SILENCE = 60  # seconds without a byte after which a web server has gone
_BESIDE = ("config.json", "preprocessor_config.json")  # what a model folder says of its weights
_REASONS = {401: "it asks for a password", 403: "access is denied", 404: "there is no such file"}


def fetch(address: str, into: Path, most: float, tell: Tell) -> Path:
    """The model under its own name in the folder `into`; a `Problem` where it cannot be had whole."""
    with explained(address):
        system, path = _opened(address)
        about = system.info(path)
        order = _Order(system, shown(address), most, tell)
        if about["type"] == "directory":
            return order.folder(path, into)
        return order.file(path, into / _name(path), about.get("size"))


def matches(pattern: str) -> list[str]:
    """The addresses of the files that fit, in order."""
    with explained(pattern):
        system, path = _opened(pattern)
        found = system.glob(path, detail=True)
        return [system.unstrip_protocol(each) for each in sorted(found) if found[each]["type"] != "directory"]


class _Order:
    """One model on its way; what has come counts against the limit."""

    def __init__(self, system: AbstractFileSystem, address: str, most: float, tell: Tell) -> None:
        self.system, self.address, self.most, self.tell = system, address, most, tell
        self.whole = self.here = 0

    def folder(self, path: str, into: Path) -> Path:
        """What describes the model and what holds its weights; the rest of a repository stays where it is."""
        about = {_name(each["name"]): each for each in self.system.ls(path, detail=True)}
        for name in (*_BESIDE, *folders.SHARDED):
            if name in about:
                self.file(about[name]["name"], into / name, about[name].get("size"))
        for name in folders.wanted(into, about):
            self.file(about[name]["name"], into / name, about[name].get("size"))
        return into

    def file(self, path: str, to: Path, size: int | None) -> Path:
        self.whole += size or 0
        self._bounded(self.whole)
        begun = self.here
        with self.system.open(path, "rb", **_streamed(self.system)) as source, to.open("xb") as copy:
            while piece := source.read(_PIECE):
                self.here += len(piece)
                self._bounded(self.here)
                copy.write(piece)
                self.tell(self.here, max(self.whole, self.here))
        if size is not None and self.here - begun != size:
            came = f"{self.here - begun:,} of {size:,} bytes came"
            raise Problem(f"`{self.address}` cannot be fetched: {came}", hint="try again")
        return to

    def _bounded(self, size: float) -> None:
        if size > self.most:
            raise too_large(self.address, self.most)


def _opened(address: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if address.lower().startswith("http"):
        from aiohttp import ClientTimeout

        # By itself it hangs up after five minutes, however well the bytes may flow.
        options = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)}}
    system, path = url_to_fs(address, **options)
    return system, path


def _streamed(system: AbstractFileSystem) -> Mapping[str, int]:
    """The web in one request: not every server can begin in the middle."""
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return {"block_size": 0} if protocols & {"http", "https"} else {}


def _name(path: str) -> str:
    """The last part of a foreign path, and nothing that would lead out of a folder."""
    name = PurePosixPath(path.partition("?")[0].replace("\\", "/")).name
    return name if name not in ("", ".", "..") and "\0" not in name else "model"


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Whatever a driver raises is told in one sentence: there are dozens of drivers, each with errors of its own."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:  # noqa: BLE001
        raise Problem(f"`{shown(address)}` cannot be fetched: {_reason(error, address)}") from None


def _reason(error: BaseException, address: str) -> str:
    """In plain words where they are known; else the driver's own, without what the address hides."""
    cause = error.__cause__ or error
    status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
    if status in _REASONS:
        return _REASONS[status]
    if isinstance(cause, PermissionError):
        return _REASONS[403]
    if isinstance(cause, FileNotFoundError):
        return _REASONS[404]
    if isinstance(cause, TimeoutError):
        return "no answer came in time"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return cause.strerror
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(cause)).replace(address, shown(address))
    lines = text.strip().splitlines()
    said = re.sub(r"\?[^\s\"']+", "", lines[0])[:200].rstrip(".") if lines else ""
    return f"{said or 'the driver gives no reason'} ({type(cause).__name__})"
