"""A method is a file: its name, its manual and its settings all come from it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bdscan.facts.problem import USAGE, Problem

ROOMS = ("probes", "purify", "train", "plant")

Value = bool | int | float | str  # of a setting
Presets = Mapping[str, Mapping[str, Value]]  # by name: settings that belong together, such as a paper's


@dataclass(frozen=True)
class Setting:
    """One setting, as its method's file declares it."""

    name: str
    default: str  # as Python writes it
    why: str  # where the number comes from
    values: tuple[str, ...] = ()  # all that it may be; empty where that is any number or text


def names(room: str) -> list[str]:
    """The methods of a room, read off the disk without importing them."""
    return sorted(_files(room))


def manual(room: str, name: str) -> str:
    """The whole manual of a method, without importing it."""
    return ast.get_docstring(_parsed(room, name)) or ""


def summary(room: str, name: str) -> str:
    """The manual's first line; read as text, since parsing every file would take longer than all the rest."""
    with _files(room)[name].open(encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def check_name(name: str, names: list[str]) -> None:
    """Raise, with the nearest name, unless the name is one of those."""
    if name not in names:
        message = f"no such method: `{name}`{_meant(name, names)}"
        raise Problem(message, hint="`bdscan methods` lists them", status=USAGE)


def described(room: str, name: str) -> list[Setting]:
    """The settings of a method, without importing it."""
    lines, settings = _source(room, name).splitlines(), []
    for field, value in _declared(room, name):
        kind = ast.unparse(field.annotation)
        if "ClassVar" not in kind:
            assert isinstance(field.target, ast.Name)
            comment = lines[field.lineno - 1].partition("#")[2].strip()
            settings.append(Setting(field.target.id, ast.unparse(value), comment, _listed_in(field.annotation)))
    return settings


def presets(room: str, name: str) -> Presets:
    """The presets that a method declares as `presets`, in plain values, without importing it."""
    for field, value in _declared(room, name):
        if ast.unparse(field.target) == "presets":
            declared: Presets = ast.literal_eval(value)
            return declared
    return {}


def find(room: str, name: str) -> type[Any]:
    """The one method class that the file defines."""
    check_name(name, names(room))
    module = importlib.import_module(f"bdscan.{room}.{name}")
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and _named_after(value.__name__, name):
            return value
    raise TypeError(f"{module.__name__} defines no class named after its file")


def configure(room: str, name: str, settings: Mapping[str, str], preset: str | None = None) -> Any:
    """The method with its defaults replaced: by the preset's settings, and those by what the user asked for."""
    kind = find(room, name)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    choices = _choices(kind)
    values: dict[str, Value] = dict(_preset(room, name, preset)) if preset is not None else {}
    for key, text in settings.items():
        if key not in fields:
            message = f"`{name}` has no such setting: `{key}`{_meant(key, list(fields))}"
            raise Problem(message, hint=f"`bdscan methods {name}` lists them", status=USAGE)
        if key in choices:
            values[key] = _one_of(choices[key], text, f"{name}.{key}")
        else:
            values[key] = _read(name, key, text, fields[key].default)
    return kind(**values)


def given(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`METHOD.SETTING=VALUE`, as the user writes them, taken apart."""
    settings: dict[str, dict[str, str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        name, dot, key = left.partition(".")
        if not (equals and dot and name and key):
            raise Problem(f"`--set {text}` is not METHOD.SETTING=VALUE", status=USAGE)
        settings.setdefault(name, {})[key] = value
    return settings


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """`SETTING=VALUE`, which somebody has looked at already, taken apart."""
    return dict(text.split("=", 1) for text in texts)


def settings(method: Any) -> dict[str, Value]:
    """The settings as the report records them."""
    return dataclasses.asdict(method)


def _files(room: str) -> dict[str, Path]:
    """Where each method of a room lies: in any folder from which Python imports the room's modules."""
    homes = importlib.import_module(f"bdscan.{room}").__path__
    return {path.stem: path for home in homes for path in Path(home).glob("[!_]*.py")}


def _source(room: str, name: str) -> str:
    return _files(room)[name].read_text(encoding="utf-8")


def _parsed(room: str, name: str) -> ast.Module:
    return ast.parse(_source(room, name))


def _declared(room: str, name: str) -> Iterator[tuple[ast.AnnAssign, ast.expr]]:
    """The annotated fields of the method's class, each with its default."""
    for node in ast.walk(_parsed(room, name)):
        if isinstance(node, ast.ClassDef) and _named_after(node.name, name):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and item.value is not None:
                    yield item, item.value


def _named_after(kind: str, name: str) -> bool:
    return kind.lower() == name.replace("_", "")


def _listed_in(annotation: ast.expr) -> tuple[str, ...]:
    """The values of a `Literal[...]`."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        inner = annotation.slice
        return tuple(str(ast.literal_eval(node)) for node in (inner.elts if isinstance(inner, ast.Tuple) else [inner]))
    return ()


def _choices(kind: type[Any]) -> dict[str, tuple[Value, ...]]:
    """All that each setting of few values may be."""
    return {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}


def _one_of(values: Sequence[Value], text: str, setting: str) -> Value:
    texts = [str(value) for value in values]
    if text not in texts:
        listed = f"{', '.join(f'`{each}`' for each in texts[:-1])} or `{texts[-1]}`"
        raise Problem(f"`{setting}` is one of {listed}, not `{text}`{_meant(text, texts)}", status=USAGE)
    return values[texts.index(text)]


def _preset(room: str, name: str, preset: str) -> Mapping[str, Value]:
    declared = presets(room, name)
    if preset not in declared:
        message = f"`{name}` has no such preset: `{preset}`{_meant(preset, list(declared))}"
        hint = f"`bdscan methods {name}` shows them" if declared else f"`{name}` has none"
        raise Problem(message, hint=hint, status=USAGE)
    return declared[preset]


def _read(name: str, key: str, text: str, default: object) -> Value:
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
