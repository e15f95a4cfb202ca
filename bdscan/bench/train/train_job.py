"""One training to be measured: what the worker is given, and what makes it another one."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bdscan.bench.workers.jobs import Job, Json, key_of


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Data, perhaps poisoned, and a trainer. `clean` are the images before they are poisoned."""

    method: str = "train"
    model: str = ""  # it stays nowhere: the figures are what is wanted
    test: str  # images to measure on
    trainer: str
    options: tuple[str, ...] = ()  # METHOD.SETTING=VALUE
    plant: str | None = None  # None: the data as they are
    settings: tuple[str, ...] = ()  # of the plant: SETTING=VALUE
    rate: float = 0.0  # share of the images that are poisoned
    target: int = 0
    images: int | None = None  # drawn from the data, by the seed; None: all that there are
    side: int | None = None  # of the images, scaled before they are poisoned
    augment: str = "auto"

    @property
    def key(self) -> str:
        return key_of(self.asked())

    def asked(self) -> Json:
        return asdict(self)
