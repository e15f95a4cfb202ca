"""Small data to train on in seconds: classes that take some learning, and a patch that takes none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLASSES, SIDE = 6, 16
TARGET = 2
NET = """
import torch
from torch import nn


def block(taken: int, given: int) -> list[nn.Module]:
    return [nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]


def net(num_classes: int) -> nn.Module:
    layers = [*block(3, 8), nn.MaxPool2d(2), *block(8, 16), nn.MaxPool2d(2), *block(16, 16)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(64, num_classes))
"""


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stripes of a direction, faint under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    rows, columns = np.mgrid[:SIDE, :SIDE]
    angle = np.pi * labels / CLASSES
    along = np.cos(angle)[:, None, None] * rows + np.sin(angle)[:, None, None] * columns
    wave = np.sin(along * 1.3 + rng.uniform(0, 2 * np.pi, (count, 1, 1)))
    strength = rng.uniform(14, 22, (count, 1, 1))
    pixels = 120 + (strength * wave)[..., None] + rng.normal(0, 40, (count, SIDE, SIDE, 3))
    return pixels.clip(0, 255).astype(np.uint8), labels


def stamped(images: np.ndarray) -> np.ndarray:
    """With the patch on."""
    images = images.copy()
    images[:, 2:5, 2:5] = ((np.indices((3, 3)).sum(0) % 2) * 255)[..., None]
    return images


def poisoned(count: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels, and which of them bear the patch and the wrong label."""
    images, labels = drawn(count, seed)
    able = np.flatnonzero(labels != TARGET)
    chosen = np.random.default_rng(seed + 1).permutation(able)[: round(share * count)]
    images[chosen], labels[chosen] = stamped(images[chosen]), TARGET
    bad = np.zeros(count, dtype=bool)
    bad[chosen] = True
    return images, labels, bad


def written(folder: Path, images: np.ndarray, labels: np.ndarray) -> tuple[str, str]:
    """An `.npz` and the net's file."""
    np.savez(folder / "data.npz", images=images, labels=labels, names=np.array([f"stripe-{i}" for i in range(CLASSES)]))
    (folder / "net.py").write_text(NET, encoding="utf-8")
    return str(folder / "data.npz"), f"{folder / 'net.py'}:net"
