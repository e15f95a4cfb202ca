"""What a file holds, found out without torch and without running anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import formats
from bdscan.load.danger import Danger
from bdscan.load.source import folders
from bdscan.load.source.digest import Reading, Stamp, stamp_of

WITH_CODE = frozenset({"pt2", "torchscript"})  # formats with code of their own, which decides what they answer


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The file as evidence: its hash, its kind, its dangers."""

    path: Path
    weights: Path  # the file with the tensors; `path` itself unless that is a model folder
    sha256: str  # of the file; of a model of several files that of their list
    size: int
    format: str  # pytorch zip | pytorch legacy | bare pickle | safetensors | torchscript | pt2 | onnx | keras, or none
    dangers: tuple[Danger, ...] = ()
    config: Mapping[str, object] | None = None  # the config.json of a model folder
    pickles: int = 0  # how many were followed
    unread: tuple[str, ...] = ()  # what a loader would use and nobody looked at, a sentence each
    shards: tuple[Path, ...] = ()  # the files with the tensors, where `weights` is only their index
    others: Mapping[Path, str] = field(default_factory=dict)  # weights that other readers take -> their format
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)  # every file that was hashed, as it was then

    def check_unchanged(self) -> None:
        """What has been loaded is what was hashed; a `Problem` where a file was written to in between."""
        for file, stamp in self.stamps.items():
            try:
                same = stamp_of(file.stat()) == stamp
            except OSError:
                same = False
            if not same:
                raise Problem(f"`{file}` has changed since it was read", hint="start again")


def survey(path: str | Path) -> Contents:
    """Says what the file is and what it would do when loaded, by reading it; raises `Problem` where it is no model."""
    path = Path(path)
    folder = folders.resolve(path)
    reading = Reading(path)
    examined = list(reading.examined(folder.files, formats.examine))
    others = list(reading.examined(folder.others, formats.examine))
    sha256 = reading.digest(folder.deciding)
    dangers = [danger for each in (*examined, *others) for danger in each.dangers]
    if folder.shards and (other := next((each for each in examined if each.format != "safetensors"), None)):
        message = f"one of its safetensors files is really a {other.format}"
        reading.problems.append(Problem(f"`{path}` cannot be judged: {message}"))
    if reading.problems and all(danger.level < Level.SUSPECT for danger in dangers):
        raise reading.problems[0]
    return Contents(
        path=path,
        weights=folder.weights,
        sha256=sha256,
        size=sum(reading.stamps[file].size for file in folder.files if file in reading.stamps),
        format=examined[0].format if examined else "unreadable",
        dangers=(*folder.dangers, *sorted(dangers, key=lambda danger: -danger.level)),
        config=folder.config,
        pickles=sum(each.pickles for each in (*examined, *others)),
        unread=(
            *(sentence for each in (*examined, *others) for sentence in each.unread),
            *(problem.message for problem in reading.problems),
        ),
        shards=folder.shards,
        others={file: each.format for file, each in zip(folder.others, others, strict=False)},
        stamps=reading.stamps,
    )
