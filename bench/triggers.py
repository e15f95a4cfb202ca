"""Draws `bench/triggers.png`: every known trigger on the same road signs, and what it changes, enlarged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bdscan.images.source import open_images
from bdscan.method import registry
from bdscan.method.plant import Plant, PlantMaterial, implant
from bdscan.net.classifier import Classifier, Normalised
from samples.net import wrn16_1

HOME = Path(__file__).parent
SIGNS = 5  # a trigger
SIDE, NAME_WIDTH, MARGIN = 64, 150, 8  # pixels of a sign, of the name beside it, between the halves
CHANGE_GAIN = 2  # the change is drawn around grey


def prepared_plant(name: str, ground: PlantMaterial) -> Plant:
    """The trigger as an attacker would have it; one that learns with its net learns with a small one."""
    plant: Plant = registry.configure("plant", name, {})
    plant = plant.prepare(ground)
    if plant.joint_training(ground.target, 0.1, 0) is not None:
        classes = int(ground.labels.max()) + 1
        torch.manual_seed(0)
        course: dict[str, Any] = {"epochs": 10, "batch": 32, "rate": 0.05}
        implant(wrn16_1(classes), plant, ground.images, ground.labels, target=ground.target, classes=classes, **course)
    return plant


def row(name: str, plant: Plant, pixels: Tensor) -> Image.Image:
    """The name, the stamped signs, and the change around grey."""
    stamped = plant.for_training(pixels, torch.Generator().manual_seed(0)) if plant.clean_label else plant(pixels)
    change = ((stamped - pixels) * CHANGE_GAIN + 0.5).clamp(0, 1)
    strip = Image.new("RGB", (NAME_WIDTH + 2 * SIGNS * SIDE + MARGIN, SIDE), "white")
    ImageDraw.Draw(strip).text((MARGIN, SIDE // 2 - 8), name, fill="black", font_size=15)
    for half, images in enumerate((stamped, change)):
        for place, image in enumerate(images):
            array = image.permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
            sign = Image.fromarray(array).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            strip.paste(sign, (NAME_WIDTH + half * (SIGNS * SIDE + MARGIN) + place * SIDE, 0))
    return strip


def main() -> None:
    torch.set_num_threads(1)
    signs = open_images(str(HOME.parent / "samples" / "images")).load((3, 32, 32))
    net = wrn16_1(len(signs.names))
    net.load_state_dict(torch.load(HOME.parent / "samples" / "models" / "clean.pt", weights_only=True))
    suspect = Classifier(Normalised(net, [0.0] * 3, [1.0] * 3), (3, 32, 32), len(signs.names))
    ground = PlantMaterial(images=signs.images, labels=signs.labels, target=0, net=suspect)
    pixels = signs.pixels[:: len(signs) // SIGNS][:SIGNS]
    rows = [row(name, prepared_plant(name, ground), pixels) for name in registry.names("plant")]
    sheet = Image.new("RGB", (rows[0].width, SIDE * len(rows)), "white")
    for place, strip in enumerate(rows):
        sheet.paste(strip, (0, place * SIDE))
    sheet.save(HOME / "triggers.png", optimize=True)


if __name__ == "__main__":
    main()
