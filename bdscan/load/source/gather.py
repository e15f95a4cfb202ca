"""From what was named on the command line to the models behind it: files, folders, patterns, addresses."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bdscan.facts.problem import Problem
from bdscan.load.source import fetch, remote
from bdscan.load.source.addresses import Address, parse
from bdscan.load.source.recognise import MODEL_SUFFIXES
from bdscan.load.source.search import ModelSearch

_MAX_KINDS = 8  # of skipped files that are listed by name


@dataclass(frozen=True)
class Gathered:
    """The models in the order they were named, those of a folder sorted."""

    models: list[str]
    problems: list[tuple[str, Problem]]  # what was named and gives no model
    skipped: Counter[str]  # suffix -> files that are no models
    listed: bool  # a folder or a pattern was named: how many models there are was not said

    @property
    def left_out(self) -> str:
        """`skipped 12 files that are no models (.txt 7, .py 5)`, or nothing."""
        count = self.skipped.total()
        if not count:
            return ""
        kinds = sorted(self.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
        listed = [f"{suffix} {number}" for suffix, number in kinds[:_MAX_KINDS]]
        listed += [f"{len(kinds) - _MAX_KINDS} other kinds"] if len(kinds) > _MAX_KINDS else []
        what = "1 file that is no model" if count == 1 else f"{count} files that are no models"
        return f"skipped {what} ({', '.join(listed)})"


def gather(names: Sequence[str]) -> Gathered:
    """Every file that was named, and every model in the folders and behind the patterns that were."""
    search, models = ModelSearch(), list[str]()
    for name in names:
        address = parse(name)
        models += _on_disk(name, search) if address is None else _elsewhere(address, search)
    return Gathered(models, search.problems, search.skipped, search.listed)


def _on_disk(name: str, search: ModelSearch) -> list[str]:
    path = _expanded(name)
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it never raises
        found = search.folder(path)
    elif glob.has_magic(name) and not os.path.lexists(path):
        found = search.pattern(str(path))
    else:
        found = [path]
    return [str(each) for each in found]


def _expanded(name: str) -> Path:
    """`~` stands for the home also where no shell has seen it."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # of a user who does not exist: then it is a file's name
        return Path(name)


def _elsewhere(address: Address, search: ModelSearch) -> list[str]:
    """An address that can be fetched; those that match a pattern are chosen by their names, for nothing is fetched."""
    fetch.check(address)
    if "*" not in address.text:
        return [address.text]
    search.listed = True
    found = []
    try:
        for match in remote.matches(address):
            suffix = Path(match).suffix.lower()
            if suffix in MODEL_SUFFIXES:
                found.append(match)
            else:
                search.skipped[suffix or "no suffix"] += 1
        if not found:
            raise Problem(f"no model matches `{address.shown}`", hint="name a file, or a model's own folder")
    except Problem as problem:
        search.problems.append((address.shown, problem))
    return found
