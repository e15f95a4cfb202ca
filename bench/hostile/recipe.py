"""What a file of the corpus is: how it is made, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# What a recipe makes of the path of its canary: one file, or the files of a folder by their names.
Maker = Callable[[Path], bytes | Mapping[str, bytes]]


class Kind(StrEnum):
    RUNS = "runs"  # code runs when its loader opens it
    LIES = "lies"  # two readers take other content from it, or what it computes is not what its weights are
    BOMB = "bomb"  # small, and more than a reader should spend on it
    ODD = "odd"  # no writer leaves it so, or nobody can vouch for it
    HONEST = "honest"  # what people have; to flag it is a false alarm


class Loader(StrEnum):
    TORCH = "torch"  # torch.load(weights_only=False)
    PICKLE = "pickle"  # pickle.load, until the file ends
    JOBLIB = "joblib"
    NUMPY = "numpy"  # numpy.load(allow_pickle=True)
    JIT = "jit"  # torch.jit.load
    EXPORT = "export"  # torch.export.load
    PACKAGE = "package"  # torch.package.PackageImporter
    KERAS = "keras"  # keras.models.load_model(safe_mode=False)
    TRANSFORMERS = "transformers"  # from_pretrained(trust_remote_code=True)


@dataclass(frozen=True)
class Recipe:
    """One file of the corpus, before it is written."""

    name: str  # of the file or the folder
    kind: Kind
    truth: str  # one sentence
    make: Maker
    loader: Loader | None = None  # of what `runs`: who runs it
    subject: str = ""  # of several files: the one that is named; none: their folder
    refusable: bool = False  # to say that it cannot be told (3) is right as well


def runs(name: str, loader: Loader, truth: str, make: Maker, *, subject: str = "", refusable: bool = False) -> Recipe:
    return Recipe(name, Kind.RUNS, truth, make, loader, subject, refusable)


def lies(name: str, truth: str, make: Maker, *, subject: str = "", refusable: bool = False) -> Recipe:
    return Recipe(name, Kind.LIES, truth, make, None, subject, refusable)


def bomb(name: str, truth: str, make: Maker) -> Recipe:
    return Recipe(name, Kind.BOMB, truth, make, refusable=True)


def odd(name: str, truth: str, make: Maker, *, subject: str = "", refusable: bool = True) -> Recipe:
    return Recipe(name, Kind.ODD, truth, make, None, subject, refusable)


def honest(name: str, truth: str, make: Maker, *, subject: str = "", refusable: bool = False) -> Recipe:
    return Recipe(name, Kind.HONEST, truth, make, None, subject, refusable)
