"""What a loader would open is looked at, whatever it is called; pictures, texts and plain arrays are not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES

from bdscan.load.source.gather import gather

TORCH_ZIP = (SAMPLES / "models" / "clean.pt").read_bytes()
PICTURE = next((SAMPLES / "images").rglob("*.png")).read_bytes()


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def arrays(**held: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **held)
    return out.getvalue()


def array(held: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(held))
    return out.getvalue()


EVIL = {protocol: pickle.dumps(Payload(), protocol) for protocol in range(6)}
OBJECTS = np.array([Payload()], dtype=object)
MODELS = {
    **{f"{protocol}.{suffix}": EVIL[protocol] for protocol in EVIL for suffix in ("t7", "state", "png", "txt", "bak")},
    "weights": EVIL[0],
    "padded.save": b"V" + b"a" * 5000 + b"\n0" + EVIL[0],
    "long.save": b"V" + b"a" * 3_000_000 + b"\n0" + EVIL[0],
    "busy.save": b"N0" * 30_000 + EVIL[0],
    "imports.pkl": b"cthis\nx\nbroken",
    "odd.zip": zipped({"archive/a": b"x", "archive/data.pkl": EVIL[2]}),
    "first.jpg": zipped({"x.jpg": PICTURE, "archive/data.pkl": EVIL[2]}),
    "deep.zip": zipped({"x/net.dat": TORCH_ZIP}, zipfile.ZIP_DEFLATED),
    "behind.png": PICTURE + TORCH_ZIP,
    "said.zip": zipped({"x.jpg": PICTURE}) + zipped({"archive/data.pkl": EVIL[2]}),
    "legacy.dat": tarred({"storages": EVIL[2], "tensors": EVIL[2], "pickle": EVIL[2]}),
    "second.tar": tarred({"a/1.jpg": PICTURE, "a/2.jpg": EVIL[0]}),
    "objects.npy": array(OBJECTS),
    "objects.npz": arrays(images=np.zeros(3, np.uint8), labels=OBJECTS),
    "field.npy": array(np.zeros(2, [("a", "O")])),
    "joblib.gz": gzip.compress(EVIL[4]),
    "joblib.z": zlib.compress(EVIL[0]),
    "joblib.bz2": bz2.compress(EVIL[4]),
    "joblib.xz": lzma.compress(EVIL[4]),
    "net.tar.gz": gzip.compress(tarred({"a.pt": TORCH_ZIP})),
    "net.7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    "keras.h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "user.block": bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(40),
    "graph.model": b"\x08\x08\x12\x07pytorch",
}
DATA = {
    "README.md": b"# A model\n\nIt is one.\n",
    "classes.txt": b"cat\ndog\nbird\n",
    "labels": b"cat\ndog\nnone\n.\n",
    "words": b"(lambda x: x)\n",
    "train.py": b"import os\nclass Net:\n    pass\n",
    "Makefile": b"clean:\n\trm -rf build\n",
    "LICENSE": b"Copyright (c) 2024\n\nPermission is hereby granted\n",
    "table.csv": b"Index,Name\n1,a\n",
    "config.json": b'{"a": [1, 2]}',
    "events.out.tfevents.1700000000.host.1.0": (24).to_bytes(8, "little") + bytes(4) + b"\x09" + bytes(30),
    "picture.png": PICTURE,
    "pictures.zip": zipped({"a/1.png": PICTURE, "b/1.png": PICTURE, "names.txt": b"cat\ndog\n"}, zipfile.ZIP_DEFLATED),
    "pictures.tar": tarred({"a/1.png": PICTURE, "b/1.png": PICTURE}),
    "images.npz": arrays(images=np.zeros((2, 3), np.uint8), labels=np.array([0, 1])),
    "plain.npy": array([1.0, 2.0]),
    "names.npy": array(["a", "One"]),
    "table.csv.gz": gzip.compress(b"a,b\n1,2\n" * 100),
    "tree.xml": b"<Opset/>",
    "firmware.bin": b"\x7fELF" + bytes(200),
    "zeros.bin": bytes(5000),
    "empty": b"",
}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_loader_would_open_is_a_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(MODELS[name])
    assert [Path(each).name for each in gather([str(tmp_path)]).models] == [name]


@pytest.mark.parametrize("name", DATA)
def test_data_are_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DATA[name])
    (tmp_path / "net.pt").write_bytes(TORCH_ZIP)
    gathered = gather([str(tmp_path)])
    assert [Path(each).name for each in gathered.models] == ["net.pt"]
    assert not gathered.problems


def test_what_hides_in_a_folder_is_looked_at_or_told(tmp_path: Path) -> None:
    inside, elsewhere = tmp_path / "in", tmp_path / "out"
    for folder in (inside / ".git" / "objects" / "aa", inside / ".cache", inside / "real", elsewhere / "deep"):
        folder.mkdir(parents=True)
    for place in (".git/evil.pt", ".git/objects/aa/copy", ".cache/weights", "real/x.save"):
        (inside / place).write_bytes(EVIL[2])
    (inside / "again").symlink_to("real")
    (inside / "data").symlink_to(elsewhere)
    (elsewhere / "deep" / "1.png").write_bytes(PICTURE)
    gathered = gather([str(inside)])
    found = [str(Path(each).relative_to(inside)) for each in gathered.models]
    assert found == [".cache/weights", ".git/evil.pt", "real/x.save"]
    assert gathered.left_out == "skipped 3 files that are no models (linked folder 2, .git 1)"
    assert not gathered.problems, "a linked folder of pictures is nobody's business"
    (elsewhere / "deep" / "net.pt").touch()
    ((path, problem),) = gather([str(inside)]).problems
    assert path == str(inside / "data")
    assert "whose models were not looked at" in problem.message


def test_one_bad_name_silences_no_other(tmp_path: Path, bdscan) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "evil.pt").write_bytes(EVIL[2])
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop").symlink_to("loop")
    bad = [str(tmp_path / name) for name in ("no\udcff.pt", "loop", "pipe.pt", "n" * 5000, "a*/b\0c")]
    status, out, _ = bdscan("inspect", *bad, str(tmp_path / "more"), "--probe", "artifact", "--format", "json")
    assert status == 1
    assert len(out.splitlines()) == len(bad) + 1
    assert '"backdoored"' in out
