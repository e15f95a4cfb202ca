"""What a worker is given, one class a kind of job, and what makes a job another one than the last time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bdscan import __version__
from bdscan.bench.labels import label_path, read_label
from bdscan.facts.effort import Effort
from bdscan.gate.provenance import sha256_of
from bdscan.pipeline.options import Options

Json = dict[str, Any]
Result = Json  # a result file: `schema`, `key`, `job`, `command`, `seconds`, `failure`, `outcome`


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker is given: never the truth about the model."""

    name: str
    method: str  # inspect | cleanse | purify | plant | train
    model: str
    clean: str | None = None
    arch: str = "auto"
    normalize: str = "auto"
    probes: tuple[str, ...] = ()
    effort: Effort = "standard"
    budget: float | None = None  # seconds
    device: str = "auto"
    seed: int = 0
    steps: int = 1000  # of the baseline, for each class

    @property
    def key(self) -> str:
        """The same for the same work on the same bytes by the same version."""
        return _key_of(sha256_of(Path(self.model)), self.asked())

    def asked(self) -> Json:
        """All that the result depends on beside the model's bytes, which count wherever they lie."""
        return {**asdict(self), "model": ""}

    def lacking(self, result: Result) -> bool:
        """Whether something is gone that was to stay beside the result."""
        return False

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.{self.method}.json"

    def verb_options(self) -> Options:
        """Those of the user's own command."""
        return Options(
            clean=self.clean,
            arch=self.arch,
            normalize=self.normalize,
            probes=self.probes,
            effort=self.effort,
            budget=self.budget,
            device=self.device,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class PurifyJob(Job):
    """A model, a purifier and so many images. The label is in none of the fields: the worker reads it afterwards."""

    method: str = "purify"
    purifier: str
    settings: tuple[str, ...] = ()  # METHOD.SETTING=VALUE
    images: int | None = None  # drawn from the clean ones; None: all that there are
    test: str | None = None  # images to measure on
    triggers: str | None = None  # a file of functions, one an attack
    keep: str | None = None  # the folder in which the cleaned model stays

    @property
    def title(self) -> str:
        """What its files are called by."""
        drawn = f"-{self.images}" if self.images is not None else ""
        return f"{self.name}.{self.purifier}{drawn}"

    @property
    def output(self) -> Path | None:
        """Where the cleaned model stays, if it does."""
        return Path(self.keep, self.title + Path(self.model).suffix) if self.keep is not None else None

    def lacking(self, result: Result) -> bool:
        refused = (result["outcome"] or {}).get("refused") is not None
        return self.output is not None and not refused and not self.output.is_file()

    def file(self, results: Path) -> Path:
        return results / f"{self.title}.purify.json"

    def asked(self) -> Json:
        """The label too, since one that is put right changes the figures; where the model stays does not."""
        label = read_label(Path(self.model))
        facts: list[object] = [label.attack, label.target, label.mode, label.source, dict(label.settings)]
        if self.triggers is not None and label.attack is not None:
            facts.append(sha256_of(Path(self.triggers)))
        return {**super().asked(), "keep": None, "truth": facts}


@dataclass(frozen=True, kw_only=True)
class _NewNetJob(Job):
    """A net to be trained. `clean` are the images that it is trained on, before they are poisoned."""

    test: str  # images to measure on
    plant: str | None = None  # None: the data as they are
    settings: tuple[str, ...] = ()  # of the plant: SETTING=VALUE
    rate: float = 0.0  # share of the training images that are poisoned
    images: int | None = None  # drawn from the training images, by the seed; None: all that there are

    @property
    def key(self) -> str:
        """There are no bytes yet that could be compared: the same for the same work by the same version."""
        return _key_of(self.asked())


@dataclass(frozen=True, kw_only=True)
class PlantJob(_NewNetJob):
    """A net with a known trigger, or a clean control. `model` is where it shall lie."""

    method: str = "plant"
    target: int | None = None  # None: drawn from the trigger's name and the seed
    epochs: int = 20
    batch: int = 128
    learning_rate: float = 0.1
    flip: bool = True  # mirrored images are images of the same class
    command: str = ""

    def asked(self) -> Json:
        return {**super().asked(), "command": ""}

    def lacking(self, result: Result) -> bool:
        model = Path(self.model)
        return not (model.is_file() and label_path(model).is_file())


@dataclass(frozen=True, kw_only=True)
class TrainJob(_NewNetJob):
    """Data, perhaps poisoned, and a trainer."""

    method: str = "train"
    model: str = ""  # it stays nowhere: the figures are what is wanted
    trainer: str
    options: tuple[str, ...] = ()  # METHOD.SETTING=VALUE
    target: int = 0
    side: int | None = None  # of the images, scaled before they are poisoned
    augment: str = "auto"


def _key_of(*request: object) -> str:
    """Of what was asked of this version."""
    return hashlib.sha256(json.dumps([__version__, *request], sort_keys=True).encode()).hexdigest()
