"""A method is a file: its name, its manual and its settings all come from it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdscan.facts.problem import USAGE, Problem

ROOMS = ("probes", "purify", "train", "plant")
_HOME = Path(__file__).parent.parent


def names(room: str) -> list[str]:
    """The methods of a room, read off the disk without importing them."""
    return sorted(path.stem for path in (_HOME / room).glob("[!_]*.py"))


def manual(room: str, name: str) -> str:
    """The whole manual of a method, without importing it."""
    source = (_HOME / room / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def summary(room: str, name: str) -> str:
    """The manual's first line."""
    return manual(room, name).partition("\n")[0]


def known(name: str, names: list[str]) -> None:
    """Raise, with the nearest name, unless the name is one of those."""
    if name not in names:
        said = f"no such method: `{name}`{_meant(name, names)}"
        raise Problem(said, hint="`bdscan methods` lists them", status=USAGE)


def defaults(room: str, name: str) -> list[tuple[str, str, str]]:
    """Each setting, its default and the comment that says where the number comes from, without importing the file."""
    source = (_HOME / room / f"{name}.py").read_text(encoding="utf-8")
    lines, found = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name.lower() == name.replace("_", ""):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and item.value is not None]
            for item in fields:
                assert isinstance(item.target, ast.Name)
                assert item.value is not None
                if "ClassVar" not in ast.unparse(item.annotation):
                    comment = lines[item.lineno - 1].partition("#")[2].strip()
                    found.append((item.target.id, ast.unparse(item.value), comment))
    return found


def find(room: str, name: str) -> type[Any]:
    """The one method class that the file defines."""
    known(name, names(room))
    module = importlib.import_module(f"bdscan.{room}.{name}")
    for value in vars(module).values():
        if (
            inspect.isclass(value)
            and value.__module__ == module.__name__
            and value.__name__.lower() == name.replace("_", "")
        ):
            return value
    raise TypeError(f"{module.__name__} defines no class named after its file")


def configure(room: str, name: str, settings: Mapping[str, str]) -> Any:
    """The method with its defaults replaced by what the user asked for."""
    kind = find(room, name)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, text in settings.items():
        if key not in fields:
            said = f"`{name}` has no such setting: `{key}`{_meant(key, list(fields))}"
            raise Problem(said, hint=f"`bdscan methods {name}` lists them", status=USAGE)
        values[key] = _read(name, key, text, fields[key].default)
    return kind(**values)


def given(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`METHOD.SETTING=VALUE`, as the user writes them, taken apart."""
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        name, dot, key = left.partition(".")
        if not (equals and dot and name and key):
            raise Problem(f"`--set {text}` is not METHOD.SETTING=VALUE", status=USAGE)
        found.setdefault(name, {})[key] = value
    return found


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """`SETTING=VALUE`, which somebody has looked at already, taken apart."""
    return dict(text.split("=", 1) for text in texts)


def settings(method: Any) -> dict[str, object]:
    """The settings as the report records them."""
    return dataclasses.asdict(method)


def _read(name: str, key: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        return float(text) if isinstance(default, float) else text
    except (KeyError, ValueError):
        kind = type(default).__name__
        raise Problem(f"`{name}.{key}` takes {kind}, not `{text}`", status=USAGE) from None


def _meant(word: str, names: list[str]) -> str:
    near = difflib.get_close_matches(word, names, 1)
    return f", did you mean `{near[0]}`?" if near else ""
