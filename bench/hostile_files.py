"""Files that lie, and honest ones beside them: `python -m bench.hostile_files FOLDER`. Nothing in them does harm.

What runs touches one empty file, its canary, and nothing else. `FOLDER/files` holds them, `FOLDER/canary` is where
the canaries appear, and `FOLDER/files.json` says what is true of each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.hostile.bombs import BOMBS
from bench.hostile.formats import FORMATS
from bench.hostile.honest import HONEST
from bench.hostile.pickles import PICKLES
from bench.hostile.recipe import Kind, Loader, Recipe
from bench.hostile.zips import ZIPS

RECIPES = (*PICKLES, *ZIPS, *FORMATS, *BOMBS, *HONEST)

# What opens a file as its user would, `path` being its path; run in a process of its own.
LOADERS = {
    Loader.TORCH: "import torch; torch.load(path, weights_only=False)",
    Loader.PICKLE: "import pickle\nwith open(path, 'rb') as file:\n    while file.peek(1): pickle.load(file)",
    Loader.JOBLIB: "import joblib; joblib.load(path)",
    Loader.NUMPY: "import numpy\nit = numpy.load(path, allow_pickle=True)\n"
    "[it[key] for key in getattr(it, 'files', ())]",
    Loader.JIT: "import torch; torch.jit.load(path)",
    Loader.EXPORT: "import torch; torch.export.load(path)",
    Loader.PACKAGE: "import torch.package; torch.package.PackageImporter(path).load_pickle('model', 'model.pkl')",
    Loader.KERAS: "import keras; keras.models.load_model(path, safe_mode=False)",
    Loader.TRANSFORMERS: "import transformers\n"
    "transformers.AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)",
}


@dataclass(frozen=True)
class HostileFile:
    """A file of the corpus, written."""

    path: Path  # what a user would name: the file, or the folder
    canary: Path  # what appears when its code runs
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.recipe.name


def write(folder: Path, canary: Path, recipes: Sequence[Recipe] = RECIPES) -> list[HostileFile]:
    """The files into the one folder; what runs when they are loaded touches a file in the other."""
    canary.mkdir(parents=True, exist_ok=True)
    names = [recipe.name for recipe in recipes]
    assert len(set(names)) == len(names)
    return [_written(recipe, folder, (canary / recipe.name).resolve()) for recipe in recipes]


def _written(recipe: Recipe, folder: Path, canary: Path) -> HostileFile:
    place = folder / recipe.kind / recipe.name
    made = recipe.make(canary)
    if not isinstance(made, Mapping):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(made)
        return HostileFile(place, canary, recipe)
    place.mkdir(parents=True, exist_ok=True)
    for name, body in made.items():
        (place / name).write_bytes(body)
    return HostileFile(place / recipe.subject, canary, recipe)


def described(file: HostileFile, folder: Path) -> dict[str, str]:
    recipe = file.recipe
    told = {"path": str(file.path.relative_to(folder)), "kind": recipe.kind.value, "truth": recipe.truth}
    return told | ({"loader": recipe.loader.value} if recipe.loader else {})


def main(folder: Path) -> None:
    files = write(folder / "files", folder / "canary")
    table = [described(file, folder) for file in files]
    (folder / "files.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    counts = {kind: sum(file.recipe.kind is kind for file in files) for kind in Kind}
    sys.stdout.write(", ".join(f"{count} {kind}" for kind, count in counts.items()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
