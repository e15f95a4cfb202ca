"""Clean nets of many kinds, for a reference: `python -m bench.reference FOLDER --data NAME=TRAIN,TEST ...`.

Into FOLDER/NAME go nets of every kind of `bench/kinds.py` trained on TRAIN (a folder, .npz or .tar, as bdscan reads
images), and their labels; nets that are there are kept. Then, with images that no net was trained on:
`bdscan bench reference --models FOLDER/NAME --clean TEST --arch bench/kinds.py ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bdscan.bench.plant.run_plant import LEARNING_RATE, plant
from bdscan.net.device import Device
from bench.kinds import KINDS

HERE = Path(__file__).resolve().parent
RATES = {"plain": 0.03, "mlp_headed": 0.05, "vit": 0.03}  # without norms, or with other ones, nets bear less
MIRRORED = ("cifar",)  # data whose images mean the same mirrored
EPOCHS = 12
BATCH = 64


def train(kind: str, name: str, data: str, test: str, given: argparse.Namespace) -> None:
    """Nets of one kind on one set of images."""
    plant(
        data=data,
        test=test,
        models=given.folder / name,
        arch=[f"{HERE / 'kinds.py'}:{kind}"],
        name=given.plant,
        seeds=1 if given.plant else 0,
        controls=0 if given.plant else 1,
        images=given.images,
        epochs=given.epochs,
        batch=BATCH,
        learning_rate=RATES.get(kind, LEARNING_RATE),
        flip=name.startswith(MIRRORED),
        device=Device.cpu,
        seed=given.seed,
        jobs=given.jobs,
        results=given.folder / "results" / name,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", action="append", required=True, metavar="NAME=TRAIN,TEST")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="these only")
    parser.add_argument("--plant", action="append", help="nets with this trigger, as for `bdscan bench plant`")
    parser.add_argument("--images", type=int, help="so many of the training images, drawn by the seed")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    for kind in given.kind or KINDS:
        for each in given.data:
            name, _, images = each.partition("=")
            data, _, test = images.partition(",")
            train(kind, name, data, test, given)


if __name__ == "__main__":
    main()
