"""Checkpoints to tamper with: the members and pickles that torch.save writes, and zips laid out byte by byte."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from bench.hostile.opcodes import before

_DATE = (1980, 1, 1, 0, 0, 0)


def net() -> nn.Module:
    """Small, with every kind of tensor that a classifier has."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 4)).eval()


def saved(value: object, *, old_layout: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old_layout)
    return buffer.getvalue()


def opened(archive: bytes) -> dict[str, bytes]:
    """The members by their names."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


@cache
def _members() -> tuple[tuple[str, bytes], ...]:
    return tuple(opened(saved(net().state_dict())).items())


def members() -> dict[str, bytes]:
    """Those of a plain checkpoint."""
    return dict(_members())


def other_members() -> dict[str, bytes]:
    """The same checkpoint with other weights."""
    return {name: bytes(len(body)) if "/data/" in name else body for name, body in _members()}


def state() -> bytes:
    """The pickle of a plain state dict."""
    return members()["archive/data.pkl"]


def stored_zip(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), body, compress_type=method)
    return buffer.getvalue()


def checkpoint(pickle: bytes | None = None, more: Mapping[str, bytes] | None = None) -> bytes:
    """A checkpoint with this pickle, and with more members at its end."""
    return stored_zip(members() | ({"archive/data.pkl": pickle} if pickle else {}) | dict(more or {}))


def infected(payload: bytes) -> bytes:
    """A checkpoint whose pickle begins with the payload."""
    return checkpoint(before(payload, state()))


def legacy(**payloads: bytes) -> bytes:
    """The layout before 1.6, with payloads before its pickles: `magic`, `version`, `system_info`, `value`, `keys`."""
    rest, out = saved(net().state_dict(), old_layout=True), b""
    for part in ("magic", "version", "system_info", "value", "keys"):
        length = next(at for opcode, _, at in pickletools.genops(rest) if opcode.name == "STOP") or 0
        one, rest = rest[: length + 1], rest[length + 1 :]
        out += before(payloads[part], one) if part in payloads else one
    return out + rest


@dataclass(frozen=True)
class Entry:
    """One member as its headers tell it."""

    name: str
    body: bytes
    local_name: str = ""
    flags: int = 0
    checksum: int | None = None
    attributes: int = 0
    method: int = zipfile.ZIP_STORED
    size: int | None = None  # unpacked

    @property
    def _figures(self) -> tuple[int, int, int]:
        checksum = zlib.crc32(self.body) if self.checksum is None else self.checksum
        return checksum, len(self.body), len(self.body) if self.size is None else self.size

    def local(self) -> bytes:
        name = (self.local_name or self.name).encode()
        head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, self.flags, self.method, 0, 33, *self._figures, len(name), 0)
        return head + name + self.body

    def central(self, offset: int) -> bytes:
        name = self.name.encode()
        figures = (20, 20, self.flags, self.method, 0, 33, *self._figures, len(name), 0, 0, 0, 0, self.attributes)
        return struct.pack("<4s6H3I5H2I", b"PK\1\2", *figures, offset) + name


def entries(files: Mapping[str, bytes]) -> list[Entry]:
    return [Entry(name, body) for name, body in files.items()]


def laid_out(listed: Sequence[Entry], start: int = 0) -> tuple[bytes, bytes]:
    """Members one behind the other, and the directory that leads to them."""
    bodies, directory, at = [], [], start
    for entry in listed:
        bodies.append(entry.local())
        directory.append(entry.central(at))
        at += len(bodies[-1])
    return b"".join(bodies), b"".join(directory)


def end_record(count: int, size: int, offset: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, offset, len(comment)) + comment


def raw_zip(listed: Sequence[Entry], *, gap: bytes = b"", comment: bytes = b"") -> bytes:
    body, directory = laid_out(listed)
    count = min(len(listed), 0xFFFF)
    return body + gap + directory + end_record(count, len(directory), len(body) + len(gap), comment)


def through_locator(for_zipfile: Mapping[str, bytes], for_torch: Mapping[str, bytes]) -> bytes:
    """A zip64 locator leads torch's reader to a directory inside the last member; Python's takes the nearest."""
    *shown, host = entries(for_zipfile)
    before_host, _ = laid_out(shown)
    inside = len(before_host) + len(host.local())
    body, directory = laid_out(entries(for_torch), inside)
    record = _end64(len(for_torch), len(directory), inside + len(body))
    listed = [*shown, Entry(host.name, host.body + body + directory + record)]
    all_members, shown_directory = laid_out(listed)
    shown_record = _end64(len(listed), len(shown_directory), len(all_members))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, inside + len(body) + len(directory), 1)
    return all_members + shown_directory + shown_record + locator + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def _end64(count: int, size: int, offset: int) -> bytes:
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)


def shifted(for_zipfile: Mapping[str, bytes], for_torch: Mapping[str, bytes]) -> bytes:
    """The end record names the first directory; Python takes the one before the record, and shifts all offsets."""
    shown, _ = laid_out(entries(for_zipfile))
    body, directory = laid_out(entries(for_torch))
    body = body.ljust(len(shown), b"\0")  # so that no shifted offset is negative
    shift = len(directory) + len(shown)
    shown, shown_directory = laid_out(entries(for_zipfile), len(body) + len(directory) - shift)
    assert len(shown_directory) == len(directory)
    return body + directory + shown + shown_directory + end_record(len(for_torch), len(directory), len(body))
