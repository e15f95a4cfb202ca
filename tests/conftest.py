"""What all tests share: no network, one thread, no colour, and a few small things to look at."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported; one thread gives the same sums everywhere
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "100"
os.environ.pop("FORCE_COLOR", None)

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from bdscan.images.image_set import ImageSet
    from bdscan.net.classifier import Classifier

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in bdscan or its tests may reach for the network."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def tiny() -> Classifier:
    """A net of 6 classes on 16 x 16 pixels: two blocks of convolution, batch norm and ReLU, untrained but not random
    in its statistics. A new one for each test."""
    import torch
    from torch import nn

    from bdscan.net.classifier import Classifier, Normalised

    def block(taken: int, given: int) -> list[nn.Module]:
        return [nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *block(3, 8), nn.MaxPool2d(2), *block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6)
        )
        net(torch.rand(64, 3, 16, 16))  # in training mode: batch norm learns its statistics
    return Classifier(Normalised(net, [0.5] * 3, [0.25] * 3), (3, 16, 16), 6, tuple("abcdef"))


@pytest.fixture(scope="session")
def few() -> ImageSet:
    """Twelve images of each of the classes of `tiny`: a class is a place where it is bright."""
    import torch

    from bdscan.images.image_set import ImageSet

    rng = np.random.default_rng(0)
    labels = np.arange(72) % 6
    images = rng.integers(0, 160, (72, 3, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 3)
        image[:, 8 * row : 8 * row + 5, 5 * column : 5 * column + 5] += 90
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), tuple("abcdef"))


@pytest.fixture(scope="session")
def signs() -> ImageSet:
    """The shipped images."""
    import torch
    from PIL import Image

    from bdscan.images.image_set import ImageSet

    files = sorted((SAMPLES / "images").glob("*/*.png"))
    names = sorted({file.parent.name for file in files})
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, labels, tuple(names), files=tuple(map(str, files)))


@pytest.fixture(scope="session")
def twins() -> dict[str, Classifier]:
    """The shipped nets: `clean` and `backdoored`."""
    from bdscan.images.source import open_images
    from bdscan.load.assembly.assemble import load
    from bdscan.load.contents import survey

    images = open_images(str(SAMPLES / "images"))
    return {
        name: load(
            survey(str(SAMPLES / "models" / f"{name}.pt")),
            arch="auto",
            normalize="auto",
            images=images,
            classes=None,
            device="cpu",
        ).suspect
        for name in ("clean", "backdoored")
    }


def run(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one call."""
    from bdscan.cli import main

    monkeypatch.setattr(sys, "argv", ["bdscan", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    spoken = capsys.readouterr()
    return int(left.value.code or 0), spoken.out, spoken.err


@pytest.fixture
def bdscan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    return lambda *arguments: run(*arguments, capsys=capsys, monkeypatch=monkeypatch)
