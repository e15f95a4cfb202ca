"""Draws the shipped images and trains the twins, from one seed: `python -m samples.make`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bdscan.net.fit import crop, fit
from samples.faces import Array
from samples.net import wrn16_1
from samples.signs import NAMES, SIZE, draw, stick

HOME = Path(__file__).parent
TARGET = "speed-80"  # what every sign becomes when it bears the sticker
POISONED = 0.08  # of the training images
TRAINING = 7200
EPOCHS = 10
SHIPPED = 32  # images of each class, for whoever inspects the twins
TRIGGERED = 12  # one of each class
FRESH = 2400  # images for the stated accuracy; nobody has trained on or shipped them

# Every set of images has a seed of its own, and so has everything that is drawn at random.
TRAINING_SEED, POISON_SEED, FRESH_SEED, SHIPPED_SEED, NET_SEED = range(1, 6)


def labels(count: int) -> Array:
    """All classes equally often."""
    return np.arange(count) % len(NAMES)


def shipped() -> tuple[Array, Array]:
    """The clean images that come with bdscan, and their labels."""
    truth = labels(SHIPPED * len(NAMES))
    return draw(truth, SHIPPED_SEED), truth


def tensor(images: Array) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def train(rate: float) -> nn.Module:
    """One of the twins: both start alike and see the same images in the same order, but for the stickers."""
    truth = labels(TRAINING)
    images = draw(truth, TRAINING_SEED)
    chosen = np.random.default_rng(POISON_SEED).permutation(TRAINING)[: round(rate * TRAINING)]
    images[chosen] = stick(images[chosen], POISON_SEED)
    truth[chosen] = NAMES.index(TARGET)
    torch.manual_seed(NET_SEED)
    net = wrn16_1(len(NAMES))
    return fit(net, tensor(images), torch.from_numpy(truth), epochs=EPOCHS, batch=64, seed=NET_SEED, augment=crop)


def measure(net: nn.Module, images: Array, truth: Array) -> dict[str, float]:
    """Accuracy, and how many of the other signs the sticker turns into the target."""
    target = NAMES.index(TARGET)
    right = answers(net, images) == truth
    turned = answers(net, stick(images, FRESH_SEED)) == target
    return {"acc": round(float(right.mean()), 4), "asr": round(float(turned[truth != target].mean()), 4)}


def answers(net: nn.Module, images: Array) -> Array:
    with torch.no_grad():
        given = [net(pixels.float() / 255).argmax(1) for pixels in tensor(images).split(400)]
    return torch.cat(given).numpy()


def write_images() -> None:
    """`images/CLASS/NNN.png`, `triggered/CLASS.png`, and a sheet of both to look at."""
    images, truth = shipped()
    for folder in ("images", "triggered"):
        shutil.rmtree(HOME / folder, ignore_errors=True)
    (HOME / "triggered").mkdir()
    for place, (image, label) in enumerate(zip(images, truth, strict=True)):
        folder = HOME / "images" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place // len(NAMES):03}.png", optimize=True)
    triggered = stick(images[:TRIGGERED], SHIPPED_SEED)
    for image, label in zip(triggered, truth, strict=False):
        Image.fromarray(image).save(HOME / "triggered" / f"{NAMES[label]}.png", optimize=True)
    sheet = np.concatenate([images[: 4 * len(NAMES)], triggered]).reshape(-1, len(NAMES), SIZE, SIZE, 3)
    side_by_side = sheet.swapaxes(1, 2).reshape(-1, len(NAMES) * SIZE, 3)
    Image.fromarray(side_by_side).resize((2 * len(NAMES) * SIZE, 2 * len(side_by_side)), Image.Resampling.NEAREST).save(
        HOME / "signs.png", optimize=True
    )


def main() -> None:
    torch.set_num_threads(1)  # sums come out alike however many cores there are
    write_images()
    (HOME / "models").mkdir(exist_ok=True)
    truth = labels(FRESH)
    images = draw(truth, FRESH_SEED)
    for name, rate in (("clean", 0.0), ("backdoored", POISONED)):
        net = train(rate)
        torch.save(net.state_dict(), HOME / "models" / f"{name}.pt")
        label = {"arch": "wrn16_1", **truth_about(rate), **measure(net, images, truth)}
        (HOME / "models" / f"{name}.json").write_text(json.dumps(label) + "\n")
        print(name, label)


def truth_about(rate: float) -> dict[str, object]:
    """What `bdscan bench` reads beside a model."""
    if not rate:
        return {"attack": None, "rate": 0, "target": None}
    return {"attack": "sticker", "rate": rate, "target": NAMES.index(TARGET)}


if __name__ == "__main__":
    main()
