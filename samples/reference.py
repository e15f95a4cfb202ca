"""Trains clean nets on freshly drawn signs, for `bdscan bench reference`: `python -m samples.reference FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from bdscan.net.fit import crop, fit
from samples.make import answers, labels, tensor
from samples.net import WideResNet
from samples.signs import NAMES, draw

TRAINING, EPOCHS, TEST = 4800, 8, 1200
SHAPES = ((16, 2), (16, 1), (12, 2), (24, 1))  # width of the first group, blocks a group
NETS = 8


def train(number: int, folder: Path) -> None:
    """One net of its own seed, shape and images; skipped where it is there already."""
    width, blocks = SHAPES[number % len(SHAPES)]
    name = f"signs-{6 * blocks + 4}-{width}-{number}"
    if (folder / f"{name}.json").is_file():
        return
    seed = 1000 + number
    torch.manual_seed(seed)
    net = WideResNet(len(NAMES), width, blocks)
    truth = labels(TRAINING)
    fit(net, tensor(draw(truth, seed)), torch.from_numpy(truth), epochs=EPOCHS, batch=64, seed=seed, augment=crop)
    shown = labels(TEST)
    accuracy = round(float((answers(net, draw(shown, seed + 500)) == shown).mean()), 4)
    torch.save(net.state_dict(), folder / f"{name}.pt")
    label = {"attack": None, "rate": 0, "target": None, "acc": accuracy, "asr": None, "seed": seed}
    (folder / f"{name}.json").write_text(json.dumps(label) + "\n")
    print(name, label)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums come out alike however many cores there are
    for number in range(NETS):
        train(number, folder)


if __name__ == "__main__":
    main()
