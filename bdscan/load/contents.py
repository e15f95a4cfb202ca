"""What a file holds, found out without torch and without running anything in it."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import formats
from bdscan.load.danger import Danger, FileExamination
from bdscan.load.source import folders


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The file as evidence: its hash, its kind, its dangers."""

    path: Path
    weights: Path  # the file with the tensors; `path` itself unless that is a model folder
    sha256: str  # of `weights`, or of all `shards` one after another
    size: int
    format: str  # pytorch zip | pytorch legacy | bare pickle | safetensors | torchscript | pt2 | onnx, or no model's
    dangers: tuple[Danger, ...] = ()
    config: Mapping[str, object] | None = None  # the config.json of a model folder
    pickles: int = 0  # how many were followed
    unread: tuple[str, ...] = ()  # what a loader would use and nobody looked at, a sentence each
    shards: tuple[Path, ...] = ()  # the files with the tensors, where `weights` is only their index


def survey(path: str | Path) -> Contents:
    """Says what the file is and what it would do when loaded, by reading it; raises `Problem` where it is no model."""
    path = Path(path)
    folder = folders.resolve(path)
    digest = hashlib.sha256()
    examined = _all_examined(folder.files, path, digest)
    if folder.shards and (other := next((each for each in examined if each.format != "safetensors"), None)):
        problem = Problem(f"`{path}` cannot be judged: one of its safetensors files is really a {other.format}")
        examined = _outlived(examined, problem)
    dangers = [danger for each in examined for danger in each.dangers]
    return Contents(
        path=path,
        weights=folder.weights,
        sha256=digest.hexdigest(),
        size=sum(file.stat().st_size for file in folder.files),
        format=examined[0].format,
        dangers=(*folder.dangers, *sorted(dangers, key=lambda danger: -danger.level)),
        config=folder.config,
        pickles=sum(each.pickles for each in examined),
        unread=tuple(sentence for each in examined for sentence in each.unread),
        shards=folder.shards,
    )


def _all_examined(files: Sequence[Path], path: Path, digest: hashlib._Hash) -> list[FileExamination]:
    """A file that cannot be read does not hide what another one does."""
    examined: list[FileExamination] = []
    problem: Problem | None = None
    for file in files:
        try:
            examined.append(_examined(file, path, digest))
        except Problem as caught:
            problem = problem or caught
    return _outlived(examined, problem) if problem else examined


def _outlived(examined: list[FileExamination], problem: Problem) -> list[FileExamination]:
    """What has been found, beside the problem, which is all there is to say where nothing grave was found."""
    if not any(danger.level > Level.NOTE for each in examined for danger in each.dangers):
        raise problem
    return [*examined, FileExamination("", unread=(problem.message,))]


def _examined(place: Path, path: Path, digest: hashlib._Hash) -> FileExamination:
    """What one file holds; its bytes go into the digest."""
    try:
        with place.open("rb") as file:
            if place.stat().st_size == 0:
                raise Problem(f"`{place}` is empty", hint="fetch the file again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                examined = formats.examine(data)
            hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise Problem(f"`{place}` cannot be read: {error.strerror}") from None
    except Problem as problem:
        if problem.message.startswith("`"):
            raise
        raise Problem(
            f"`{path}` cannot be judged: {problem.message}", hint=problem.hint, status=problem.status
        ) from None
    return examined
