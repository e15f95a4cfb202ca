"""Clean images from every form of source, and what is said of those that are not in order."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from bdscan.facts.deadline import OutOfTime, within
from bdscan.facts.problem import Problem
from bdscan.images.doubts import doubts_against
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images

SHAPE = (3, 16, 16)


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def write_folder(root: Path, classes: tuple[str, ...], each: int = 10, form: str = "png") -> Path:
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(100 * k + i).save(root / name / f"{i:02d}.{form}")
    return root


def write_tar(path: Path, entries: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def pngs(classes: tuple[str, ...], each: int = 10) -> dict[str, bytes]:
    return {f"{c}/{i}.png": encoded(picture(100 * k + i)) for k, c in enumerate(classes) for i in range(each)}


def test_folder_gives_the_pixels_in_the_order_of_sorted_names(tmp_path: Path) -> None:
    write_folder(tmp_path, ("dog", "cat"))
    source = open_images(str(tmp_path))
    clean = source.load(SHAPE)
    assert (source.names, source.count, source.size) == (("cat", "dog"), 20, SHAPE)
    assert clean.doubts == ()
    assert clean.names == ("cat", "dog")
    at = clean.files.index("dog/03.png")
    assert clean.labels[at] == 1
    assert np.array_equal(clean.images[at].permute(1, 2, 0), np.asarray(picture(3)))


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.tgz"])
def test_tar_equals_folder(tmp_path: Path, name: str) -> None:
    folder = open_images(str(write_folder(tmp_path / "folder", ("cat", "dog")))).load(SHAPE)
    mode: Literal["w", "w:gz"] = "w" if name.endswith(".tar") else "w:gz"
    entries = {f"./{file}": (tmp_path / "folder" / file).read_bytes() for file in folder.files}
    tar = open_images(str(write_tar(tmp_path / name, entries, mode))).load(SHAPE)
    assert (tar.digest(), tar.files, tar.names) == (folder.digest(), folder.files, folder.names)


def test_tar_below_a_common_folder(tmp_path: Path) -> None:
    entries = {f"test/{name}": data for name, data in pngs(("cat", "dog")).items()}
    assert open_images(str(write_tar(tmp_path / "a.tar", entries))).names == ("cat", "dog")


@pytest.mark.parametrize("form", ["webp", "bmp", "ppm", "jpg"])
def test_forms(tmp_path: Path, form: str) -> None:
    write_folder(tmp_path, ("a", "b"), each=1, form=form)
    assert len(open_images(str(tmp_path)).load(SHAPE)) == 2


def test_npz(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2, names=np.array(["z", "a"]))
    clean = open_images(str(tmp_path / "a.npz")).load(SHAPE)
    assert clean.names == ("z", "a"), "an array's labels mean its own names, in their order"
    assert clean.labels.tolist() == [0, 1] * 10
    assert np.array_equal(clean.images.permute(0, 2, 3, 1), images)


def test_npz_grey_for_a_colour_net(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=grey, labels=[0, 1, 2, 3])
    source = open_images(str(tmp_path / "a.npz"))
    assert source.size == (1, 16, 16)
    assert np.array_equal(source.load(SHAPE).images[:, 1], grey)
    assert source.load((1, 16, 16)).images.shape == (4, 1, 16, 16)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 4, 4, 3)), "labels": [0, 1]}, "float64"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [0]}, "not 2 whole numbers"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [0, -1]}, "not 2 whole numbers"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "labels"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "labels": [3], "names": np.array(["a"])}, "only 1 names"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8), "labels": np.array([Path()], dtype=object)}, "allow_pickle"),
    ],
)
def test_npz_out_of_order(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(Problem, match=said):
        open_images(str(tmp_path / "a.npz"))


def test_npz_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**3, 10**3, 3)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(Problem, match="declares"):
        open_images(str(tmp_path / "a.npz"))


# -- whose class is which ----------------------------------------------------


def test_labels_follow_the_order_of_the_model(tmp_path: Path) -> None:
    source = open_images(str(write_folder(tmp_path, ("cat", "dog"))))
    clean = source.load(SHAPE, names=("bird", "Dog", "cat"))
    assert {clean.labels[i].item() for i, f in enumerate(clean.files) if f.startswith("dog")} == {1}
    assert clean.names == ("bird", "Dog", "cat")
    assert any("`bird`" in doubt for doubt in clean.doubts)


def test_unknown_class_is_a_problem(tmp_path: Path) -> None:
    source = open_images(str(write_folder(tmp_path, ("cat", "dog"), each=1)))
    with pytest.raises(Problem, match="`dog`") as caught:
        source.load(SHAPE, names=("cat", "wolf"))
    assert caught.value.status == 2


@pytest.mark.parametrize("names", [None, tuple("abcdefghijk")])
def test_numbered_folders_map_by_number(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    clean = open_images(str(write_folder(tmp_path, ("0", "2", "0010")))).load(SHAPE, names)
    assert set(clean.labels.tolist()) == {0, 2, 10}
    assert len(clean.names) == 11
    assert any("8 of 11 classes have no clean images" in doubt for doubt in clean.doubts)


def test_an_empty_class_folder_keeps_its_number(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "c"))
    (tmp_path / "b").mkdir()
    clean = open_images(str(tmp_path)).load(SHAPE)
    assert set(clean.labels.tolist()) == {0, 2}


def test_wrong_number_of_classes() -> None:
    clean = ImageSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    assert doubts_against(clean, 2) == ()
    assert "2 classes, the model 10" in doubts_against(clean, 10)[0]


# -- choosing ----------------------------------------------------------------


def test_the_limit_is_balanced_and_seeded(tmp_path: Path) -> None:
    entries = pngs(("a",), 30) | {f"b/{i}.png": encoded(picture(500 + i)) for i in range(10)}
    source = open_images(str(write_tar(tmp_path / "a.tar", entries)))
    chosen = source.load(SHAPE, limit=16)
    assert chosen.labels.bincount().tolist() == [8, 8]
    assert source.load(SHAPE, limit=26).labels.bincount().tolist() == [16, 10]
    assert source.load(SHAPE, limit=16).files == chosen.files
    assert source.load(SHAPE, limit=16, seed=1).files != chosen.files
    assert chosen.doubts == (), "that only some were chosen says nothing against the source"


def test_only_the_chosen_are_decoded(tmp_path: Path) -> None:
    broken = {f"b/{i}.png": b"not a picture" for i in range(10)}
    source = open_images(str(write_tar(tmp_path / "a.tar", pngs(("a",)) | broken)))
    assert source.count == 20
    with pytest.raises(Problem, match="10 of 20"):
        source.load(SHAPE)
    assert source.size == SHAPE


# -- fitting -----------------------------------------------------------------


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "1.png")
    assert bool((open_images(str(tmp_path)).load(SHAPE).images == 255).all())


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
@pytest.mark.parametrize("depth", [1, 3])
def test_modes(tmp_path: Path, mode: str, depth: int) -> None:
    (tmp_path / "a").mkdir()
    half = Image.new("L", (16, 16), 255)
    image = Image.fromarray(np.full((16, 16), 65535, np.uint16)) if mode == "I;16" else half.convert(mode)
    image.save(tmp_path / "a" / "1.png", **({"transparency": b"\x00" * 256} if mode == "P" else {}))  # type: ignore[arg-type]
    assert bool((open_images(str(tmp_path)).load((depth, 8, 8)).images == 255).all())


def test_strong_enlargement_is_a_doubt(tmp_path: Path) -> None:
    source = open_images(str(write_folder(tmp_path, ("a", "b"))))
    assert any("enlarged" in doubt for doubt in source.load((3, 64, 64)).doubts)
    assert source.load((3, 24, 24)).doubts == ()


# -- doubts and failures -----------------------------------------------------


def test_one_class_and_few_images(tmp_path: Path) -> None:
    doubts = open_images(str(write_folder(tmp_path, ("a",), each=9))).load(SHAPE).doubts
    assert any("one class" in doubt for doubt in doubts)
    assert any("1 of 1 classes have fewer than 10" in doubt for doubt in doubts)


def test_copies_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"))
    picture(0).save(tmp_path / "b" / "copy.bmp")
    assert "1 of 21 clean images are exact copies of others" in open_images(str(tmp_path)).load(SHAPE).doubts


def test_one_broken_file_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"), each=20)
    whole = (tmp_path / "a" / "00.png").read_bytes()
    (tmp_path / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    clean = open_images(str(tmp_path)).load(SHAPE)
    assert len(clean) == len(clean.files) == len(clean.labels) == 39
    assert any("a/00.png" in doubt for doubt in clean.doubts)


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (100_000, 12_000, 8_000):
        (tmp_path / f"side{side}").mkdir()
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        (tmp_path / f"side{side}" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    with pytest.raises(Problem, match=r"3 of 3 images could not be decoded, the first `side\d+/1.png`"):
        open_images(str(tmp_path)).load(SHAPE)


def test_links_and_paths_out_of_the_tar_are_ignored(tmp_path: Path) -> None:
    entries = pngs(("a", "b")) | {"/etc/x.png": b"", "../a/y.png": b""}
    path = write_tar(tmp_path / "a.tar", entries)
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "a/link.png"), (tarfile.CHRTYPE, "a/device.png")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
    clean = open_images(str(path)).load(SHAPE)
    assert len(clean) == 20
    assert any(doubt.startswith("4 entries") for doubt in clean.doubts)


def test_a_tar_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a/1.png")
    entry.size = 1 << 40
    for name, data in (("a.tar", entry.tobuf()), ("a.tar.gz", gzip.compress(entry.tobuf()))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Problem, match="bomb"):
            open_images(str(tmp_path / name))


def test_a_long_name_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.tar").write_bytes(entry.tobuf())
    with pytest.raises(Problem, match="cannot be read as a tar"):
        open_images(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("spec", ["nowhere", "cifar10:nowhere", "a.txt", "empty", "loose", "splits", "broken.tar"])
def test_what_cannot_be_opened_is_the_users_to_mend(tmp_path: Path, spec: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    picture(0).save(tmp_path / "loose" / "1.png")
    write_folder(tmp_path / "splits", ("train", "val"), each=1)
    kind, colon, rest = spec.rpartition(":")
    with pytest.raises(Problem) as caught:
        open_images(f"{kind}{colon}{tmp_path / rest}")
    assert caught.value.status == 2


# -- torchvision's layouts ---------------------------------------------------


def cifar_root(root: Path, labels: object) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    data = np.arange(20 * 3072, dtype=np.uint32).astype(np.uint8).reshape(20, 3072)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}, protocol=2))
    return root


def test_cifar(tmp_path: Path) -> None:
    clean = open_images(f"cifar10:{cifar_root(tmp_path, [0, 1] * 10)}").load((3, 32, 32))
    assert clean.names == ("plane", "car")
    assert clean.labels.tolist() == [0, 1] * 10
    expected = np.arange(3072, 2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(3, 32, 32)
    assert np.array_equal(clean.images[1], expected)


def test_a_cifar_batch_runs_nothing(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "canary"),)

    with pytest.raises(Problem, match=r"posix\.mkdir|nt\.mkdir"):
        open_images(f"cifar10:{cifar_root(tmp_path, Canary())}")
    assert not (tmp_path / "canary").exists()


def test_gtsrb(tmp_path: Path) -> None:
    pictures = tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    pictures.mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i, label in enumerate((16, 1)):
        picture(i).save(pictures / f"{i:05d}.ppm")
        rows.append(f"{i:05d}.ppm;16;16;0;0;1;1;{label}")
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows))
    clean = open_images(f"gtsrb:{tmp_path}").load(SHAPE)
    assert clean.labels.tolist() == [16, 1]
    assert np.array_equal(clean.images[1].permute(1, 2, 0), np.asarray(picture(1)))


def test_mnist_through_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 20, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 20) + bytes([0, 7] * 10))
    source = open_images(f"mnist:{tmp_path}")
    assert source.size == (1, 28, 28)
    clean = source.load((1, 28, 28))
    assert clean.labels.tolist() == [0, 7] * 10
    assert np.array_equal(clean.images[:, 0], images)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "gtsrb", "mnist", "fashionmnist", "svhn", "stl10"])
def test_a_root_without_the_set(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Problem, match="does not hold the test images"):
        open_images(f"{kind}:{tmp_path}")
    assert list(tmp_path.iterdir()) == [], "nothing is downloaded"


# -- sets that ask for more than there is -------------------------------------


def npy(shape: tuple[int, ...], kind: str, data: bytes = b"") -> bytes:
    """An array whose header says what it likes."""
    header = str({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


PIXELS, LABELS = npy((4, 8, 8, 3), "|u1", bytes(768)), npy((4,), "|u1", bytes(4))
LYING = {
    "more pictures than bytes": (npy((10**9, 10**3, 10**3, 3), "|u1"), LABELS),
    "fewer than none": (npy((-4, 8, 8, 3), "|u1", bytes(768)), LABELS),
    "no pixels": (npy((4, 0, 0, 3), "|u1"), LABELS),
    "objects": (npy((4,), "|O", bytes(64)), LABELS),
    "more labels than bytes": (PIXELS, npy((4 * 10**9,), "<i8")),
    "labels too wide": (PIXELS, npy((4,), "<U100000000")),
    "labels that unpack": (PIXELS, npy((40_000_000,), "<i8", bytes(320_000_000))),
    "pictures that unpack": (npy((100_000, 32, 32, 3), "|u1", bytes(307_200_000)), LABELS),
    "a label no net has": (PIXELS, npy((4,), "<u8", b"\xff" * 32)),
}


@pytest.mark.parametrize("lie", LYING)
def test_arrays_are_not_believed(tmp_path: Path, lie: str) -> None:
    pixels, labels = LYING[lie]
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("images.npy", pixels)
        archive.writestr("labels.npy", labels)
    with pytest.raises(Problem) as caught:
        open_images(str(tmp_path / "set.npz"))
    assert caught.value.status == 2


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "home" / "set", ("a", "b"), each=20)
    write_folder(tmp_path, ("elsewhere",))
    (root / "up").symlink_to(tmp_path)
    (root / "self").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "a" / "pipe.png")
    clean = open_images(str(root)).load(SHAPE)
    assert len(clean) == 50
    assert clean.names == ("a", "b", "linked")
    assert sum("leads back out" in doubt for doubt in clean.doubts) == 2
    assert any("could not be decoded" in doubt for doubt in clean.doubts)


def test_a_header_that_promises_much_is_one_broken_file(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ("a", "b"), each=20)
    (root / "a" / "huge.ppm").write_bytes(b"P6 7000 7000 255\n" + bytes(100))
    assert len(open_images(str(root)).load(SHAPE)) == 40


def test_the_budget_holds_while_images_are_decoded(tmp_path: Path) -> None:
    source = open_images(str(write_folder(tmp_path / "set", ("a", "b"))))
    with within(0, time.monotonic() - 1), pytest.raises(OutOfTime):
        source.load(SHAPE)
