"""The house: no import points up, torch stays out of what must start fast, nothing unsafe is called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

from bdscan.method.registry import ROOMS, names

HOME = ROOT / "bdscan"

# Each room's floor, as ARCHITECTURE.md draws them. A new room must be given one here: that is where one decides what it
# may import, which is what lies on lower floors and nothing else.
FLOORS = {
    "bdscan": 0,
    "facts": 1,
    **dict.fromkeys(("verdict", "images"), 2),
    "net": 3,
    **dict.fromkeys(("load", "triggers"), 4),
    "method": 5,
    **dict.fromkeys((*ROOMS, "report"), 6),
    **dict.fromkeys(("write", "gate"), 7),
    "pipeline": 8,
    "bench": 9,
    "cli": 10,
    "__main__": 11,
}

# What must be importable without torch: these start in a tenth of a second.
LIGHT = ("facts", "verdict", "method.registry", "method.case", "report", "gate", "probes.artifact", "cli", "__main__")
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
UNSAFE = re.compile(r"(eval|exec|__import__|pickle\.loads?|torch\.(jit|export|hub)\.\w+|joblib\.load)")


@dataclass(frozen=True)
class Import:
    name: str  # absolute
    line: int
    at_start: bool  # runs when the module is imported
    for_types: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(HOME.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(node: ast.AST, *, at_start: bool = True, for_types: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, at_start, for_types)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if inner in FILES else str(child.module), child.lineno, at_start, for_types)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, at_start=False, for_types=for_types)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from imports(child, at_start=False, for_types=True)
        else:
            yield from imports(child, at_start=at_start, for_types=for_types)


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "bdscan"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in FILES} <= set(FLOORS), "a new room: say in FLOORS on which floor it lies"


@pytest.mark.parametrize("name", FILES)
def test_no_import_points_up(name: str) -> None:
    here = room(name)
    for item in imports(TREES[name]):
        there = room(item.name)
        if item.name.partition(".")[0] == "bdscan":
            below = FLOORS[there] < FLOORS[here]
            assert there == here or below, f"{name}:{item.line} imports {item.name}, which is not below"


def test_methods_never_import_one_another() -> None:
    public = {f"bdscan.{where}.{method}" for where in ROOMS for method in names(where)}
    for name in public:
        for item in imports(TREES[name]):
            assert item.name not in public, f"{name}:{item.line} imports {item.name}"


def at_import(name: str) -> set[str]:
    """Everything that is imported, directly or not, when this module is; packages on the way included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        parents = [here.rpartition(".")[0]] if "." in here else []
        if here in seen:
            continue
        seen.add(here)
        if here in TREES:
            waiting += parents + [item.name for item in imports(TREES[here]) if item.at_start]
    return seen


def test_no_import_goes_in_circles() -> None:
    """Lazy ones and those for types alone count too: a circle of names is as hard to read as one of imports."""
    edges = {name: {item.name for item in imports(tree) if item.name in FILES} - {name} for name, tree in TREES.items()}
    while leaves := {name for name, after in edges.items() if not after & set(edges)}:
        edges = {name: after for name, after in edges.items() if name not in leaves}
    assert not edges, f"in circles: {sorted(edges)}"


@pytest.mark.parametrize("light", LIGHT)
def test_torch_stays_out(light: str) -> None:
    chosen = [name for name in FILES if name.removeprefix("bdscan.").startswith(light)]
    assert chosen, light
    for name in chosen:
        heavy = {item.partition(".")[0] for item in at_import(name)} & {"torch", "torchvision", "timm", "onnx"}
        assert not heavy, f"importing {name} imports {heavy}"


@pytest.mark.parametrize("name", FILES)
def test_nothing_unsafe_is_called(name: str) -> None:
    for called, node in calls(TREES[name]):
        assert not UNSAFE.fullmatch(called), f"{name}:{node.lineno} calls {called}"
        assert called != "print", f"{name}:{node.lineno} prints"
        if called == "torch.load":
            assert room(name) == "load", f"{name}:{node.lineno}: only `load` reads checkpoints"
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert words.get("weights_only") == "True", f"{name}:{node.lineno}: weights_only=True must be said"


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is(name: str) -> None:
    said = ast.get_docstring(TREES[name])
    assert said, f"{name} has no docstring"
    assert not set(name.split(".")) & BANNED_NAMES, f"{name} says nothing about what is in it"
