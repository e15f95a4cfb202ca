"""One net to be trained for the bench: what the worker is given, and where the files of a planted net lie."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from bdscan.bench.workers.jobs import Job, Json, key_of


@dataclass(frozen=True, kw_only=True)
class PlantJob(Job):
    """A net with a known trigger, or with none. `model` is where it shall lie, `clean` the images it is trained on."""

    method: str = "plant"
    test: str  # images to measure on
    plant: str | None = None  # None: a clean control
    settings: tuple[str, ...] = ()  # SETTING=VALUE
    rate: float = 0.0  # share of the training images that are poisoned
    target: int | None = None  # None: drawn from the trigger's name and the seed
    images: int | None = None  # drawn from the training images, by the seed; None: all that there are
    epochs: int = 20
    batch: int = 128
    flip: bool = True  # mirrored images are images of the same class
    command: str = ""

    @property
    def key(self) -> str:
        """There are no bytes yet that could be compared: the same for the same work by the same version."""
        return key_of(self.asked())

    def asked(self) -> Json:
        return {**asdict(self), "model": "", "command": ""}

    def lacking(self, result: Json) -> bool:
        model = Path(self.model)
        return not (model.is_file() and label_path(model).is_file())


def label_path(model: Path) -> Path:
    """Its label, as `bench.labels` reads it."""
    return model.with_name(f"{model.stem}.json")


def learned_path(model: Path) -> Path:
    """What its trigger learned, where that is more than settings."""
    return model.with_name(f"{model.stem}.plant.npz")


def trigger_path(model: Path) -> Path:
    """Its trigger as `--trigger` takes it, where it is one mask and one pattern."""
    return model.with_name(f"{model.stem}.trigger.npz")
