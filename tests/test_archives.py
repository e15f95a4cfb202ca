"""Archives that lie about what is in them, and what is hidden in archives: every reader's view is looked at."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import formats, safetensors_header, search, zip_directory
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import Contents, survey
from bdscan.load.pickle import legacy

GOOD = {"a": torch.arange(8.0)}
EVIL = {"a": torch.zeros(8)}


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


PAYLOAD = pickle.dumps(Payload())
TEXT_PAYLOAD = b"cos\nsystem\n(S'true'\ntR."


def saved(value: object, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def beside(name: str, data: bytes) -> bytes:
    """A sound checkpoint with one more member."""
    return zipped({**members(saved(GOOD)), name: data})


def local_header(name: str, data: bytes) -> bytes:
    sizes = zlib.crc32(data), len(data), len(data), len(name), 0
    return struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 33, *sizes) + name.encode() + data


def entry(name: str, data: bytes, offset: int) -> bytes:
    sizes = zlib.crc32(data), len(data), len(data), len(name)
    fixed = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 33, *sizes, 0, 0, 0, 0, 0, offset)
    return fixed + name.encode()


def laid_out(files: dict[str, bytes], at: int = 0) -> tuple[bytes, bytes]:
    """Members and a directory for them, the first byte of which lies at `at`."""
    body, directory = b"", b""
    for name, data in files.items():
        directory += entry(name, data, at + len(body))
        body += local_header(name, data)
    return body, directory


def record64(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)


def two_archives() -> bytes:
    """A zip64 locator leads torch to an archive inside a tensor of the one that Python reads."""
    good, evil = members(saved(GOOD)), members(saved(EVIL))
    host = next(name for name in good if name.endswith("data/0"))
    order = {host: good[host], **good}
    inner_at = len(local_header(host, good[host]))
    inner, inner_directory = laid_out(evil, inner_at)
    inner_record = record64(len(evil), len(inner_directory), inner_at + len(inner))
    order[host] = good[host] + inner + inner_directory + inner_record
    body, directory = laid_out(order)
    outer_record = record64(len(order), len(directory), len(body))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, inner_at + len(inner) + len(inner_directory), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return body + directory + outer_record + locator + end


def shifted_directory() -> bytes:
    """The end record states where torch finds a directory; Python takes the one right before the end record."""
    good = members(saved(GOOD))
    host = next(name for name in good if name.endswith("data/0"))
    order = {name: data for name, data in good.items() if name != host} | {host: good[host]}
    body, stated = laid_out(order)
    start = len(body)
    order[host] += stated
    body, _ = laid_out(order)
    back = len(body) - start
    seen = b"".join(
        entry(name, data, (body.index(local_header(name, data)) - back) % (1 << 32)) for name, data in order.items()
    )
    return body + seen + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(good), len(good), len(seen), start, 0)


def folder_with_content() -> bytes:
    """A member that is a folder by its attributes: torch's reader takes nothing of it."""
    data = bytearray(zipped(members(saved(GOOD))))
    at = data.find(b"PK\1\2")
    data[at + 38] |= 0x10
    return bytes(data)


def in_comment() -> bytes:
    inner, outer = saved(EVIL), saved(GOOD)
    return outer[:-2] + struct.pack("<H", len(inner)) + inner


def renamed(old: bytes, new: bytes) -> bytes:
    return zipped(members(saved(GOOD))).replace(old, new)


BACKDOORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "two archives": (two_archives, "different members"),
    "shifted directory": (shifted_directory, "different members"),
    "folder with content": (folder_with_content, "a folder to torch's reader"),
    "end record in the comment": (in_comment, "two end records"),
    "nul in a name": (lambda: renamed(b"archive/version", b"archive/ver\0ion"), "different members"),
    "zip behind a pickle": (lambda: pickle.dumps({"a": 1}) + zipped(members(saved(GOOD))), "at once"),
    "zip behind a legacy file": (lambda: saved(GOOD, old=True) + zipped(members(saved(GOOD))), "at once"),
    "tar around a zip": (lambda: tarred({"x": b"1"}) + zipped(members(saved(GOOD))), "at once"),
    "first format of torch": (lambda: tarred(oldest(PAYLOAD)), "would call"),
    "first format, between tensors": (lambda: tarred(oldest(between=PAYLOAD)), "would call"),
    "pickle in a storage": (lambda: beside("archive/data/9", PAYLOAD), "would call"),
    "text pickle under any name": (lambda: beside("archive/notes.txt", TEXT_PAYLOAD), "would call"),
    "gzip in a zip": (lambda: beside("archive/x", gzip.compress(PAYLOAD)), "would call"),
    "tar in a zip": (lambda: beside("archive/x", tarred({"y": PAYLOAD})), "would call"),
    "five zips deep": (lambda: beside("archive/x", deep(5)), "would call"),
    "zip of no kind": (lambda: zipped({"x": b"1", "y": PAYLOAD}), "would call"),
    "npz": (lambda: npz(Payload()), "would call"),
    "npy": (lambda: npy(Payload()), "would call"),
    "gzip": (lambda: gzip.compress(PAYLOAD), "would call"),
    "bzip2": (lambda: bz2.compress(PAYLOAD), "would call"),
    "xz": (lambda: lzma.compress(PAYLOAD), "would call"),
    "zlib, as joblib writes": (lambda: zlib.compress(PAYLOAD), "would call"),
    "packed tar": (lambda: tarred({"a": b"1", "y": PAYLOAD}, "w:gz"), "would call"),
    "checkpoint and program": (lambda: beside("archive/archive_format", b"pt2"), "at once"),
    "zip in a pickle": (lambda: packed_file(beside("archive/x", PAYLOAD)), "would call"),
    "legacy file in a pickle": (lambda: packed_file(saved(GOOD, old=True) + PAYLOAD), "would call"),
    "text pickle that packs a zip": (
        lambda: beside("archive/x", packed_file(beside("archive/y", PAYLOAD))),
        "would call",
    ),
    "many pickles": (lambda: pickle.dumps({}) * 100 + PAYLOAD, "would call"),
    "tar with a link": (lambda: linked_tar(), "would call"),
    "old program": (lambda: old_program(PAYLOAD), "would call"),
    "a pickle like safetensors": (lambda: b"\x80\x04X\x04\0\0\0a{aa0" + PAYLOAD[2:], "would call"),
    "ninth byte": (lambda: b"(K\1K\1K\1K{0" + TEXT_PAYLOAD, "would call"),
}


def oldest(payload: bytes = b"", between: bytes = b"") -> dict[str, bytes]:
    """What PyTorch before 0.1.10 wrote: one storage, one tensor."""
    kind = pickle.dumps((1, "cpu", torch.FloatStorage), 2)
    storages = pickle.dumps(1, 2) + kind + struct.pack("<q2f", 2, 1.0, 2.0) + (between or pickle.dumps([], 2))
    tensors = pickle.dumps(0, 2)
    return {
        "sys_info": pickle.dumps({}),
        "storages": storages,
        "tensors": tensors,
        "pickle": payload or pickle.dumps({}),
    }


def deep(levels: int) -> bytes:
    return zipped({"x": deep(levels - 1) if levels > 1 else PAYLOAD})


def npy(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz(value: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([value], dtype=object))
    return buffer.getvalue()


def packed_file(data: bytes) -> bytes:
    """A pickle that hands the bytes to `torch.load`."""
    return b"ctorch.storage\n_load_from_bytes\n" + pickle.dumps(data, 4)[2:-1] + b"\x85R."


def old_program(state: bytes) -> bytes:
    """As torch.export wrote it before 2.8."""
    return zipped({"version": b"4", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": state})


def linked_tar() -> bytes:
    """What torch asks for first is a link to another member, behind which something waits."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, data in (("storages", tarfile.SYMTYPE, b""), ("y", tarfile.REGTYPE, PAYLOAD)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "y", len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def looked_at(tmp_path: Path) -> Callable[[bytes], Contents]:
    def look(data: bytes) -> Contents:
        (tmp_path / "model.pt").write_bytes(data)
        return survey(tmp_path / "model.pt")

    return look


@pytest.mark.parametrize("name", BACKDOORS)
def test_what_a_reader_would_run_or_read_otherwise_is_a_backdoor(
    name: str, looked_at: Callable[[bytes], Contents]
) -> None:
    make, said = BACKDOORS[name]
    dangers = looked_at(make()).dangers
    assert any(said in danger.message and danger.level == Level.BACKDOOR for danger in dangers), dangers


@pytest.mark.parametrize("make", [two_archives, shifted_directory, folder_with_content])
def test_weights_that_readers_would_not_agree_on_are_not_judged(
    make: Callable[[], bytes], looked_at: Callable[[bytes], Contents]
) -> None:
    with pytest.raises(Problem, match="more than one way to read it"):
        read(looked_at(make()))


def test_the_two_archives_are_real(tmp_path: Path) -> None:
    """torch loads what Python's reader does not see."""
    data = two_archives()
    (tmp_path / "model.pt").write_bytes(data)
    assert torch.equal(torch.load(tmp_path / "model.pt")["a"], EVIL["a"])
    assert members(data)["archive/data.pkl"] == members(saved(GOOD))["archive/data.pkl"]
    assert zip_directory.by_torch(data) != zip_directory.by_python(data)


SUSPECTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "wrong checksum": (lambda: wrong_checksum(), "checksum is wrong"),
    "patched": (lambda: flagged(0x20), "encrypted or patched"),
    "strong encryption": (lambda: flagged(0x40), "encrypted or patched"),
    "no descriptor": (lambda: flagged(0x08), "missing or wrong"),
    "another method": (lambda: zipped(members(saved(GOOD)), zipfile.ZIP_BZIP2), "torch cannot read"),
    "backslash": (lambda: beside("archive\\x", b"1"), "on Windows only"),
    "second folder": (lambda: beside("other/data.pkl", pickle.dumps({})), "outside the folder"),
    "second checkpoint": (lambda: beside("archive/x/data.pkl", pickle.dumps({})), "another checkpoint"),
    "capitals": (lambda: beside("archive/Version", b"3"), "same to torch"),
    "comment": (lambda: saved(GOOD)[:-2] + b"\2\0hi", "comment"),
    "long name": (lambda: beside("archive/" + "x" * 600, b"1"), "longer than readers show"),
    "TorchScript's names elsewhere": (
        lambda: beside("archive/x", b"\x80\x04c__torch__.os\nX\n)R."),
        "nobody vouches for",
    ),
    "program by its bytes": (lambda: beside("archive/x", b"\x7fELF" + bytes(60)), "program"),
}


def wrong_checksum() -> bytes:
    data = bytearray(zipped(members(saved(GOOD))))
    for mark, offset in ((b"PK\1\2", 16), (b"PK\3\4", 14)):
        at = data.find(mark) + offset
        data[at : at + 4] = b"abcd"
    return bytes(data)


def flagged(bit: int) -> bytes:
    data = bytearray(zipped(members(saved(GOOD))))
    data[data.find(b"PK\1\2") + 8] |= bit
    data[6] |= bit
    return bytes(data)


@pytest.mark.parametrize("name", SUSPECTS)
def test_what_no_writer_does_is_suspicious(name: str, looked_at: Callable[[bytes], Contents]) -> None:
    make, said = SUSPECTS[name]
    dangers = looked_at(make()).dangers
    assert any(said in danger.message and danger.level == Level.SUSPECT for danger in dangers), dangers


def without_checksums() -> bytes:
    torch.serialization.set_crc32_options(False)
    try:
        return saved(GOOD)
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (lambda: saved(GOOD), 0),
        (lambda: saved(GOOD, old=True), 0),
        (lambda: saved({"a": torch.zeros(0), "b": torch.ones(3)}), 0),
        (lambda: zipped(members(saved(GOOD))), 0),
        (lambda: zipped(members(saved(GOOD)), zipfile.ZIP_DEFLATED), 1),
        (without_checksums, 1),
        (lambda: beside("archive/labels.txt", b"cat\ndog\nbird\n"), 0),
        (lambda: pickle.dumps({"zip": zipped({"a": b"1"})}), 0),
    ],
)
def test_what_honest_writers_write_is_nothing_to_worry_about(
    make: Callable[[], bytes], notes: int, looked_at: Callable[[bytes], Contents]
) -> None:
    contents = looked_at(make())
    assert [danger.level for danger in contents.dangers] == [Level.NOTE] * notes and not contents.unread


def scripted() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [scripted, pytest.param(exported, marks=pytest.mark.slow)])
def test_code_that_decides_the_answer_is_left_to_whoever_rebuilds_it(
    make: Callable[[], bytes], looked_at: Callable[[bytes], Contents]
) -> None:
    contents = looked_at(make())
    assert not any(danger.level > Level.NOTE for danger in contents.dangers)
    assert not contents.unread
    assert len(read(contents).tensors) == 2


UNREAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (lambda: flagged(1), "encrypted"),
    "7z": (lambda: beside("archive/x", b"7z\xbc\xaf\x27\x1c" + bytes(50)), "7z"),
    "too deep": (lambda: beside("archive/x", deep(20)), "deeper"),
    "first format of torch": (lambda: tarred(oldest()), "first format"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_nobody_looked_at_is_told(name: str, looked_at: Callable[[bytes], Contents]) -> None:
    make, said = UNREAD[name]
    contents = looked_at(make())
    assert any(said in sentence for sentence in contents.unread), contents.unread
    assert name == "encrypted" or not any(danger.level > Level.NOTE for danger in contents.dangers)


def test_no_more_is_unpacked_than_fits(looked_at: Callable[[bytes], Contents], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_ALWAYS_UNPACKED", 1 << 20)
    for method in (gzip.compress, bz2.compress, lzma.compress):
        assert "too many to look at" in looked_at(beside("archive/x", method(bytes(2 << 20)))).unread[0]
    packed = zipped({**members(saved(GOOD)), "archive/x": bytes(2 << 20)}, zipfile.ZIP_DEFLATED)
    assert "more than is looked at" in looked_at(packed).unread[0]


@pytest.mark.parametrize("make", [lambda data: data, lambda data: beside("archive/x.pkl", data)])
def test_a_pickle_without_end_is_suspicious(
    make: Callable[[bytes], bytes], looked_at: Callable[[bytes], Contents], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real unpickler would get to its end, and run what waits there."""
    monkeypatch.setattr(search, "MAX_STEPS", 1000)
    dangers = looked_at(make(b"\x80\x02" + b"N0" * 1000 + b".")).dangers
    assert any("steps" in danger.message and danger.level == Level.SUSPECT for danger in dangers)


def test_bytes_inside_a_file_are_examined_as_a_file_of_their_own() -> None:
    assert formats.examine_bytes(beside("archive/x", PAYLOAD)).dangers[0].level == Level.BACKDOOR
    assert formats.examine_bytes(saved(GOOD)).dangers == ()
    assert formats.examine_bytes(b"nothing of the kind").dangers == ()
    assert formats.examine_bytes(PAYLOAD, depth=99).unread


def test_the_magic_number_may_take_its_time() -> None:
    """Opcodes before it that do nothing."""
    data = saved(GOOD, old=True)
    late = data[:2] + b"N0" * 10 + data[2:]
    assert legacy.is_legacy(late) and list(legacy.split(late).spans) == list(legacy.split(data).spans)


@pytest.mark.parametrize("pairs", [60_000, 1_000_000])
def test_a_header_of_countless_names_is_refused_at_once(pairs: int) -> None:
    text = "{" + ",".join(f'"{index:x}":0' for index in range(pairs)) + ',"z":0,"z":0}'
    began = time.process_time()
    with pytest.raises(Problem, match=r"twice|more tensors"):
        safetensors_header.read(struct.pack("<Q", len(text)) + text.encode())
    assert time.process_time() - began < 2


def test_an_archive_of_countless_members_is_refused(looked_at: Callable[[bytes], Contents]) -> None:
    one = entry("archive/x.pkl", b"", 0)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 60_000, 60_000, 60_000 * len(one), 0, 0)
    began = time.process_time()
    with pytest.raises(Problem, match="more than any model has"):
        looked_at(b"PK\3\4" + one * 60_000 + end)
    assert time.process_time() - began < 2


def test_a_shard_that_cannot_be_read_does_not_hide_another(tmp_path: Path) -> None:
    """What the first one would run is kept."""
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(str(index).replace("'", '"'))
    (tmp_path / "one.safetensors").write_bytes(PAYLOAD)
    (tmp_path / "two.safetensors").write_bytes(b"garbage")
    contents = survey(tmp_path)
    assert contents.dangers[0].level == Level.BACKDOOR and contents.unread


def test_a_pickle_among_the_values_of_a_pickle_is_followed(looked_at: Callable[[bytes], Contents]) -> None:
    contents = looked_at(pickle.dumps({"notes": PAYLOAD, "array": np.frombuffer(b"\x80\x04 is no pickle", np.uint8)}))
    assert [danger.level for danger in contents.dangers if "among its values" in danger.where] == [Level.BACKDOOR]
