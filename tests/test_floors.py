"""The house: no import points up, torch stays out of what must start fast, nothing unsafe is called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from conftest import ROOT

from bdscan.method.registry import ROOMS, names
from docs.architecture import FILES, FLOORS, HOME, PAGE, TREES, drawn, imports, room

# What must be importable without torch: these start in a tenth of a second.
LIGHT = ("facts", "verdict", "method.registry", "method.case", "report", "gate", "probes.artifact", "cli", "__main__")
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
UNSAFE = re.compile(r"(eval|exec|__import__|pickle\.loads?|torch\.(jit|export|hub)\.\w+|joblib\.load)")
MAX_UNTYPED = 4  # lines with a dict of anything: a bound that only ever falls


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in FILES} <= set(FLOORS), "a new room: say in FLOORS on which floor it lies"
    assert {name for name in FLOORS if (HOME / name).is_dir()} == {
        path.parent.name for path in HOME.glob("*/__init__.py")
    }


def test_the_picture_is_drawn_from_the_imports() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert drawn(page) == page, "`make architecture` draws it again"
    assert "──►" in page
    assert page.count("<!-- drawn") == page.count("<!-- end -->") == 2


def test_nothing_lies_loose_in_the_house() -> None:
    assert {path.name for path in HOME.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_there_are_fewer_and_fewer_dicts_of_anything() -> None:
    untyped = re.compile(r"dict\[str, (Any|object)\]")
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES.values()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if untyped.search(line)
    ]
    assert len(lines) <= MAX_UNTYPED, f"evidence and results are types: {lines}"


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
    visited: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        parents = [here.rpartition(".")[0]] if "." in here else []
        if here in visited:
            continue
        visited.add(here)
        if here in TREES:
            waiting += parents + [item.name for item in imports(TREES[here]) if item.at_start]
    return visited


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
    docstring = ast.get_docstring(TREES[name])
    assert docstring, f"{name} has no docstring"
    assert not set(name.split(".")) & BANNED_NAMES, f"{name} says nothing about what is in it"
