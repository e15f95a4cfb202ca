"""Zips mutated at random: what torch's own reader gets out of them is what was looked at, or the file is flagged."""

from __future__ import annotations

import io
import os
import random
import struct
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import formats, torch_zip
from bdscan.load.archive.zips import Archive
from bdscan.load.danger import FileExamination

CASES = int(os.environ.get("BDSCAN_FUZZ_CASES", "2000"))
SEED = int(os.environ.get("BDSCAN_FUZZ_SEED", "0"))
SLOW = 5  # seconds
_MARKS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08")
_FIGURES = (0, 1, 2, 7, 8, 20, 22, 46, 0x2D, 0xFF, 0xFFFF, 0xFFFFFFFF, 1 << 31, 1 << 33, (1 << 64) - 1)
_FIELDS = {  # mark -> (offset, bytes) of what readers go by
    b"PK\1\2": tuple((at, 2) for at in (6, 8, 10, 12, 28, 30, 32, 34)) + tuple((at, 4) for at in (16, 20, 24, 38, 42)),
    b"PK\3\4": ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((4, 4), (8, 8), (16, 4)),
    b"PK\7\x08": ((4, 4), (8, 4), (12, 4)),
}  # fmt: skip


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


class Pipe(io.BytesIO):
    """Where nothing can be written twice."""

    def tell(self) -> int:
        raise OSError


def zipped(source: bytes, method: int, *, streamed: bool = False, order: int = 1) -> bytes:
    """The archive as Python writes it; `streamed`: with data descriptors."""
    out = Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist()[::order]:
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


def seeds() -> list[bytes]:
    plain = saved({"a": torch.arange(8.0), "b": torch.ones(2), "empty": torch.zeros(0)})
    other = saved({"a": torch.arange(8.0) + 1, "b": torch.zeros(2)})
    stored = zipped(plain, zipfile.ZIP_STORED)
    return [
        plain,
        stored,
        zipped(plain, zipfile.ZIP_DEFLATED),
        zipped(plain, zipfile.ZIP_STORED, streamed=True),
        zipped(plain, zipfile.ZIP_DEFLATED, order=-1),
        scripted(),
        stored + zipped(other, zipfile.ZIP_STORED),
        hosted(stored, other),
        hosted(plain, other),
    ]


def hosted(host: bytes, guest: bytes) -> bytes:
    """A second archive inside the first tensor of another, where a locator may lead."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(host)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info) + (guest if info.filename.endswith("data/0") else b""))
    return out.getvalue()


def places(data: bytes) -> list[tuple[bytes, int]]:
    found = []
    for mark in _MARKS:
        at = data.find(mark)
        while at >= 0:
            found.append((mark, at))
            at = data.find(mark, at + 1)
    return found


def change_figure(chance: random.Random, data: bytearray) -> None:
    mark, at = chance.choice(places(bytes(data)) or [(b"PK\5\6", 0)])
    offset, width = chance.choice(_FIELDS[mark])
    old = int.from_bytes(data[at + offset : at + offset + width], "little")
    targets = [place for _, place in places(bytes(data))]
    new = chance.choice(
        [*_FIGURES, old + 1, old - 1, old + chance.randrange(200), old ^ (1 << chance.randrange(16)), *targets]
    )
    data[at + offset : at + offset + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def change_name(chance: random.Random, data: bytearray) -> None:
    names = [b"data.pkl", b"data/0", b"version", b"archive/", b"byteorder", b"constants.pkl"]
    old = chance.choice(names)
    spots = [at for at in range(len(data)) if data[at : at + len(old)] == old]
    if spots:
        at = chance.choice(spots)
        new = chance.choice(
            [old.upper(), b"\0" * len(old), old[::-1], chance.choice(names).ljust(len(old), b"x")[: len(old)]]
        )
        data[at : at + len(old)] = new


def copy_block(chance: random.Random, data: bytearray) -> None:
    """A record of the archive once more, somewhere else."""
    spots = places(bytes(data))
    _, begin = chance.choice(spots)
    _, until = chance.choice(spots)
    _, target = chance.choice(spots)
    block = bytes(data[min(begin, until) : max(begin, until) + chance.choice([0, 22, 46, 56, 76])])
    if chance.random() < 0.5:
        data[target:target] = block
    else:
        data[target : target + len(block)] = block


def add_locator(chance: random.Random, data: bytearray) -> None:
    """A zip64 record and a locator before the end record: figures as they are, or as another end record has them."""
    end = data.rfind(b"PK\5\6")
    other = chance.choice([at for mark, at in places(bytes(data)) if mark == b"PK\5\6"] or [end])
    if end < 0 or len(data) < max(end, other) + 22:
        return
    count, size, start = struct.unpack("<10xHII2x", data[other : other + 22])
    start += chance.choice([0, 0, other - size - start])
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start % (1 << 64))
    at = chance.choice([end, end, *(place for _, place in places(bytes(data)))])
    data[at:at] = record
    end = data.rfind(b"PK\5\6")
    data[end:end] = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)


def change_bytes(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(5))


def add_bytes(chance: random.Random, data: bytearray) -> None:
    at = chance.choice([0, len(data), *(place for _, place in places(bytes(data)))])
    data[at:at] = chance.choice([b"\0" * chance.randrange(1, 3000), chance.randbytes(chance.randrange(1, 90)), *_MARKS])


_CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(change_figure,) * 4, change_name, copy_block, add_locator, change_bytes, add_bytes,
)  # fmt: skip


def mutated(chance: random.Random, whole: list[bytes]) -> bytes:
    data = bytearray(chance.choice(whole))
    for _ in range(chance.choice([1, 1, 1, 2, 2, 3, 5])):
        chance.choice(_CHANGES)(chance, data)
        if not places(bytes(data)):
            break
    return bytes(data)


def torch_records(data: bytes) -> dict[str, bytes]:
    """What torch's own reader gets out of it; nothing where it does not open it."""
    if data[:4] != b"PK\3\4":
        return {}
    try:
        reader: Any = torch._C.PyTorchFileReader(io.BytesIO(data))
        names = ["data.pkl", "version", "byteorder", "constants.pkl", "data/0", "data/1"]
        present = [name for name in names if reader.has_record(name)]
    except (RuntimeError, ValueError):  # also where its own message is no text
        return {}
    found = {}
    for name in present:
        try:
            if reader.get_record_size(name) < 1 << 24:
                found[name] = reader.get_record(name)
        except (RuntimeError, ValueError, MemoryError):
            continue
    return found


def examined(data: bytes) -> FileExamination | None:
    try:
        return formats.examine(data)
    except Problem as problem:
        assert problem.message and "\n" not in problem.message
        return None


def read_back(data: bytes, name: str) -> bytes | None:
    """The same record, as bdscan reads it."""
    try:
        archive = Archive(data)
        archive.require_one_reading()
        member = archive.find(f"{archive.root}/{name}")
        return archive.read(member, 1 << 24) if member else None
    except Problem:
        return None


def judged(data: bytes) -> str:
    """How the case ended; what begins with `unflagged` must not be."""
    found, records = examined(data), torch_records(data)
    if found is None:
        return "refused, though torch opens it" if "data.pkl" in records else "refused"
    level = max((danger.level for danger in found.dangers), default=Level.NOTE)
    different = [name for name, record in records.items() if read_back(data, name) != record]
    if "data.pkl" in different and level < Level.BACKDOOR:
        return f"unflagged: data.pkl, {level.name}"
    if different and level < Level.SUSPECT and not found.unread:
        return f"unflagged: {different[0]}"
    return "different and flagged" if different else "the same"


def run(cases: int, seed: int, keep: Path | None = None) -> Counter[str]:
    chance, whole, outcomes = random.Random(seed), seeds(), Counter[str]()
    for number in range(cases):
        data = mutated(chance, whole)
        began = time.process_time()
        try:
            outcome = judged(data)
        except Exception as error:
            outcome = f"unflagged: crash {type(error).__name__} {error}"
        if time.process_time() - began > SLOW:
            outcome = "unflagged: slow"
        if keep and outcome.startswith(("unflagged", "refused, ")):
            (keep / f"{seed}-{number}.pt").write_bytes(data)
        outcomes[outcome] += 1
    return outcomes


@pytest.mark.slow
def test_what_torch_reads_is_what_was_looked_at(tmp_path: Path) -> None:
    outcomes = run(CASES, SEED, tmp_path)
    assert not [outcome for outcome in outcomes if outcome.startswith("unflagged")], outcomes
    assert outcomes["the same"] > CASES // 20 and outcomes["different and flagged"] > CASES // 50, outcomes


def test_the_seeds_are_read_alike() -> None:
    """What the mutations begin with opens in torch, and is found the same here."""
    for data in seeds()[:6]:
        records = torch_records(data)
        assert "data.pkl" in records
        assert all(read_back(data, name) == record for name, record in records.items())
        assert torch_zip.main_pickle(Archive(data)).broken == ""
