"""One purification to be measured: what the worker is given, and what makes it another one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bdscan.bench.labels import read_label
from bdscan.bench.result_json import read_result
from bdscan.bench.workers.jobs import Job, Json


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

    def lacking(self, result: Json) -> bool:
        return self.output is not None and read_result(result).failure is None and not self.output.is_file()

    def file(self, results: Path) -> Path:
        return results / f"{self.title}.purify.json"

    def asked(self) -> Json:
        """The label too, since one that is put right changes the figures; where the model stays does not."""
        label = read_label(Path(self.model))
        facts: list[object] = [label.attack, label.target, label.mode, label.source, dict(label.settings)]
        if self.triggers is not None and label.attack is not None:
            facts.append(hashlib.sha256(Path(self.triggers).read_bytes()).hexdigest())
        return {**super().asked(), "keep": None, "truth": facts}
