"""Source files in one folder: read as text when another asks for them, and noted with their digests."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import Problem, plain, unusable
from bdscan.load.code.parse import MAX_TEXT, parse
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.runs import Runs
from bdscan.load.code.text import Text
from bdscan.load.code.values import MISSING, Names

_MAX_FILES = 300  # that are read; torchvision's models are 40
_MAX_ENTRIES = 5000  # of a folder that are looked at
_MAX_DEPTH = 6  # folders within folders
Parts = tuple[str, ...]


class Folder:
    """What was named: a file, whose neighbours it may import, or a folder."""

    def __init__(self, path: Path) -> None:
        path = path.expanduser()
        if not path.exists():
            raise unusable(f"no such file or folder: `{path}`", "--source takes FILE.py, FILE.py:NAME or a folder")
        self.root = (path if path.is_dir() else path.parent).resolve()
        self.named = [(path.stem,)] if path.is_file() else list(self._listed())
        self._files = {(path.stem,): path.resolve()} if path.is_file() else {}
        self._trees: dict[Parts, ast.Module] = {}
        self.digests: dict[str, str] = {}  # of every file that was read
        self.unread: dict[str, Problem] = {}

    def _listed(self) -> Iterator[Parts]:
        """Every source file below the folder, those nearest to it first."""
        count, level = 0, [(self.root, 0)]
        while level:
            folder, depth = level.pop(0)
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                check_time()
                count += 1
                if count > _MAX_ENTRIES:
                    raise unusable(f"`{self.root}` holds more than {_MAX_ENTRIES} files", "name the net's own file")
                if entry.is_symlink() or entry.name.startswith("."):
                    continue
                if entry.is_dir() and depth < _MAX_DEPTH:
                    level.append((Path(entry.path), depth + 1))
                elif entry.is_file() and entry.name.endswith(".py"):
                    place = Path(entry.path).relative_to(self.root)
                    yield (*place.parent.parts, entry.name.removesuffix(".py"))

    def tree(self, parts: Parts) -> ast.Module | None:
        """A file as a syntax tree, None if there is none of that name within the folder."""
        if parts not in self._trees:
            place = self._place(parts)
            if place is None:
                return None
            if len(self._trees) >= _MAX_FILES:
                raise NotFollowed(f"it needs more than {_MAX_FILES} files")
            data = _bytes(place)
            self.digests[self.file(parts)] = hashlib.sha256(data).hexdigest()
            self._trees[parts] = parse(data.decode("utf-8-sig", errors="replace"), self.file(parts))
        return self._trees[parts]

    def file(self, parts: Parts) -> str:
        """What it is called in messages."""
        return plain("/".join(parts) + ".py")

    def _place(self, parts: Parts) -> Path | None:
        if parts in self._files:
            return self._files[parts]
        place = self.root.joinpath(*parts[:-1], f"{parts[-1]}.py")
        inside = place.is_file() and place.resolve().is_relative_to(self.root)
        return place if inside else None

    def is_package(self, parts: Parts) -> bool:
        place = self.root.joinpath(*parts)
        return bool(parts) and place.is_dir() and place.resolve().is_relative_to(self.root)


def _bytes(place: Path) -> bytes:
    with place.open("rb") as file:
        data = file.read(4 * MAX_TEXT + 1)  # a character has at most four bytes
    if len(data) > 4 * MAX_TEXT:
        raise NotFollowed(f"`{place.name}` is far longer than any net's source")
    return data


class Sources:
    """The texts of one folder, followed by one interpreter: what one net's building changes, no other net sees."""

    def __init__(self, folder: Folder, machine: Runs) -> None:
        self.folder, self.machine = folder, machine
        self._texts: dict[Parts, Text] = {}
        self._parts: dict[int, Parts] = {}

    def text(self, parts: Parts) -> Text | None:
        """One file, or a folder of them by its `__init__.py`."""
        if parts not in self._texts:
            package = self.folder.is_package(parts)
            file = (*parts, "__init__") if package else parts
            tree = self.folder.tree(file)
            if tree is None:
                if not package:
                    return None
                tree = ast.Module([], [])
            self._texts[parts] = text = Text(tree, self.folder.file(file), self.machine)
            self._parts[id(text)] = parts
        return self._texts[parts]

    def module(self, path: str, level: int, importer: Names) -> object:
        """Beside the importer first, then in the folders above it, up to the one that was named."""
        while not isinstance(importer, Text):
            importer = importer.around  # type: ignore[attr-defined]
        wanted = tuple(path.split(".")) if path else ()
        here = self._parts[id(importer)]
        above = here if self.folder.is_package(here) else here[:-1]
        if level:
            if level - 1 > len(above):
                return MISSING
            return self._found((*above[: len(above) - level + 1], *wanted))
        for count in range(len(above), -1, -1):
            found = self._found((*above[:count], *wanted))
            if found is not MISSING:
                return found
        return self._found(wanted[1:]) if wanted[0] == self.folder.root.name else MISSING

    def _found(self, parts: Parts) -> object:
        text = self.text(parts) if parts else None
        if text is None and not parts:
            text = self._texts.setdefault((), Text(ast.Module([], []), self.folder.root.name, self.machine))
            self._parts[id(text)] = ()
        return MISSING if text is None else text

    def part(self, package: Text, name: str) -> object:
        """A file in a folder that is imported by the folder's name."""
        parts = self._parts[id(package)]
        return self._found((*parts, name)) if not parts or self.folder.is_package(parts) else MISSING
