"""Draws the picture and the table of rooms in ARCHITECTURE.md from the imports, and the tables of methods in the pages
that show them from the methods' first lines: `make architecture`.

The floors below are the house's one law of imports; tests/test_floors.py holds every import to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = ROOT / "bdscan"
PAGE = ROOT / "ARCHITECTURE.md"
DRAWN = re.compile(r"(<!-- drawn by docs/architecture.py -->\n).*?(<!-- end -->)", re.DOTALL)

METHODS = {"probes": "docs/usage.md", "purify": "docs/purify.md", "train": "docs/train.md"}
METHOD_ROWS = re.compile(r"(\| Method \|[^\n]*\n\|---\|---\|\n)(?:\|[^\n]*\n)*")

# Each room's floor. A new room must be given one here: that is where one decides what it may import, which is what lies
# on lower floors and nothing else.
FLOORS = {
    "bdscan": 0,
    "facts": 1,
    **dict.fromkeys(("verdict", "images"), 2),
    "net": 3,
    **dict.fromkeys(("load", "triggers"), 4),
    "method": 5,
    **dict.fromkeys(("probes", "purify", "train", "plant", "report"), 6),
    **dict.fromkeys(("write", "gate"), 7),
    "pipeline": 8,
    "bench": 9,
    "cli": 10,
    "__main__": 11,
}


@dataclass(frozen=True)
class Import:
    """One name that a module imports."""

    name: str  # absolute
    line: int
    at_start: bool  # runs when the module is imported
    for_types: bool


def module_name(path: Path) -> str:
    """`bdscan.net.fit` for bdscan/net/fit.py; a package goes by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(HOME.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(node: ast.AST, *, at_start: bool = True, for_types: bool = False) -> Iterator[Import]:
    """Everything that is imported below this node, in functions and for types alone too."""
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
    """The room that a module lies in: the part behind `bdscan`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "bdscan"


def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports from, the package's root and `__main__` left out."""
    rooms = {name: set[str]() for name, floor in FLOORS.items() if 0 < floor < FLOORS["__main__"]}
    for name, tree in TREES.items():
        if room(name) in rooms:
            reached = {room(item.name) for item in imports(tree) if item.name.startswith("bdscan.")}
            rooms[room(name)] |= reached & rooms.keys() - {room(name)}
    return rooms


def direct(rooms: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others: a room that is reached by way of another one is not drawn again."""

    def below(name: str) -> set[str]:
        return rooms[name].union(*map(below, rooms[name]))

    return {name: after - set[str]().union(*map(below, after)) for name, after in rooms.items()}


def picture() -> str:
    """The floors from top to bottom; behind each room those it rests on."""
    lines, above = [], 0
    for name, after in sorted(direct(arrows()).items(), key=lambda item: (-FLOORS[item[0]], item[0])):
        floor = FLOORS[name]
        if floor != above:
            lines.append("─" * 72)
        number, above = (f"{floor:2}" if floor != above else "  "), floor
        arrow = f" ──► {' · '.join(sorted(after, key=lambda each: (-FLOORS[each], each)))}" if after else ""
        lines.append(f"{number} │ {name:9}{arrow}".rstrip())
    return "\n".join(["```text", *lines, "─" * 72, "```"])


def table() -> str:
    """Each package and what its docstring says lies in it, from the lowest floor up."""
    packages = [name for name, path in FILES.items() if path.name == "__init__.py" and name != "bdscan"]
    packages.sort(key=lambda name: (FLOORS[room(name)], name))
    rows = []
    for name in packages:
        what = (ast.get_docstring(TREES[name]) or "").partition("\n")[0]
        rows.append(f"| {FLOORS[room(name)]} | `{name.replace('.', '/')}/` | {what} |")
    return "\n".join(["| floor | room | what lies in it |", "|--:|---|---|", *rows])


def drawn(page: str) -> str:
    """The page with its picture and its table as the imports have them now."""
    parts = iter((picture(), table()))
    return DRAWN.sub(lambda marks: f"{marks[1]}\n{next(parts)}\n\n{marks[2]}", page)


def methods(page: str, room: str) -> str:
    """The page with a row for each method of the room."""
    files = sorted(path for path in (HOME / room).glob("[!_]*.py"))
    manuals = {path.stem: ast.get_docstring(TREES[module_name(path)]) or "" for path in files}
    rows = [f"| `{name}` | {manual.splitlines()[0]} |\n" for name, manual in manuals.items()]
    return METHOD_ROWS.sub(lambda table: table[1] + "".join(rows), page)


if __name__ == "__main__":
    for room_of, name in METHODS.items():
        methods_page = ROOT / name
        methods_page.write_text(methods(methods_page.read_text(encoding="utf-8"), room_of), encoding="utf-8")
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
