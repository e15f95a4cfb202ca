"""The parts of a TorchScript archive: its texts, its tree of modules as inert records, its constants."""

from __future__ import annotations

import ast
import mmap
from collections.abc import Iterator
from functools import cached_property

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.archive.torch_tree import Tree, of_zip
from bdscan.load.archive.torch_zip import main_pickle
from bdscan.load.archive.zips import Archive
from bdscan.load.code.budget import LARGEST
from bdscan.load.code.parse import parse
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.pickle.rebuild import dimensions
from bdscan.load.pickle.records import CallRecord, mapping

_MAX_TEXT = 16 << 20  # characters of one text: a large net's code, traced flat, has some megabytes
_HOOKS = ("__forward_hooks__", "__forward_pre_hooks__")  # what the runtime calls though the text does not
_KEPT = ("__parameters__", *_HOOKS)
_MAX_RANK = 8  # of an image that a trace was made with


class Parts:
    """Read on demand, each once."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._archive = data, Archive(data)
        self._archive.require_one_reading()
        self.texts: dict[str, str] = {}  # those that were asked for

    @cached_property
    def tree(self) -> Tree:
        return of_zip(self._data)

    @cached_property
    def constants(self) -> list[Tensor | None]:
        """`CONSTANTS.c0` and so on."""
        value, rebuild = of_zip(self._data, "constants")
        if not isinstance(value, tuple | list):
            raise Problem("its constants are not in a list")
        return [rebuild(part) for part in value]

    def syntax(self, qualifier: str) -> ast.Module | None:
        """The text in which the names behind that qualifier are defined; None where there is none."""
        path = f"{self._archive.root}/code/{qualifier.replace('.', '/')}.py"
        member = self._archive.find(path)
        if member is None:
            return None
        text = self._archive.read(member, _MAX_TEXT).decode("utf-8", "replace")
        self.texts[qualifier] = text
        return _Plain().visit(parse(text, path, _MAX_TEXT))  # type: ignore[no-any-return]

    @property
    def traced_with(self) -> tuple[int, ...]:
        """The shape of the image that it was traced with, batch first; empty where nothing is told."""
        try:
            value = main_pickle(self._archive, "traced_inputs").value
        except Problem:
            return ()
        shapes = list(_shapes(value))
        return shapes[0] if len(shapes) == 1 and len(shapes[0]) in (2, 4) else ()


def _shapes(value: object, depth: int = 0) -> Iterator[tuple[int, ...]]:
    """Of all tensors in it; their values were not saved."""
    if isinstance(value, CallRecord) and str(value.maker) == "torch._utils._rebuild_tensor_v2":
        if isinstance(value.arguments, tuple) and len(value.arguments) > 2:
            yield dimensions(value.arguments[2])[:_MAX_RANK]
        return
    if isinstance(value, CallRecord) and str(value.maker) == "torch.jit._pickle.restore_type_tag":
        value = value.first
    parts = value if isinstance(value, list | tuple) else (mapping(value) or {}).values()
    for part in list(parts)[:_MAX_RANK] if depth < _MAX_RANK else ():
        yield from _shapes(part, depth + 1)


class _Plain(ast.NodeTransformer):
    """Leaves of a class what decides what it does; types are left to the runtime."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if "NamedTuple" in bases:  # only told apart from a plain tuple by its fields
            node.body = [part for part in node.body if isinstance(part, ast.AnnAssign)] or [ast.Pass()]
            return node
        node.body = [part for part in node.body if _decides(part)] or [ast.Pass(lineno=node.lineno, col_offset=0)]
        for part in node.body:
            name = part.targets[0].id if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name) else ""
            if isinstance(part, ast.Assign) and name in _HOOKS and not _is_empty(part.value):
                raise NotFollowed("a module with hooks is not something bdscan follows")
            if isinstance(part, ast.FunctionDef) and part.name == "__setstate__":
                raise NotFollowed("a module with code that runs while it is loaded is not something bdscan follows")
        self.generic_visit(node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """`to the end` is written as the largest number there is."""
        if type(node.value) is int and node.value > LARGEST:
            node.value = LARGEST
        return node


def _decides(part: ast.stmt) -> bool:
    if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
        return part.targets[0].id in _KEPT
    if isinstance(part, ast.FunctionDef):  # Python's other hooks are none in TorchScript
        return not (part.name.startswith("__") and part.name.endswith("__")) or part.name == "__setstate__"
    return isinstance(part, ast.AnnAssign) and part.value is not None


def _is_empty(value: ast.expr) -> bool:
    return isinstance(value, ast.List | ast.Tuple) and not value.elts
