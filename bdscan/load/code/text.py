"""One text with its names: each is worked out when it is first asked for, and nothing else of the text is followed."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator

from bdscan.load.code.builtin import CHANGING
from bdscan.load.code.interpreter import Interpreter
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.values import MISSING, Scope
from bdscan.load.pickle.effects import quoted

_SWITCHES = frozenset({"backends", "cudnn", "rcParams", "plt", "os", "sys", "random", "ssl"})
_REFLECTING = frozenset({"setattr", "delattr", "exec", "eval", "globals", "vars", "locals", "compile", "__import__"})


class Text:
    """What stands outside functions and classes, followed as far as somebody asks for it.

    A script that trains the net beside defining it is thus read for its definitions alone.
    """

    def __init__(self, tree: ast.Module, file: str, interpreter: Interpreter) -> None:
        self.file, self.interpreter = file, interpreter
        self.scope = Scope(self)
        self._binding: dict[str, list[ast.stmt]] = defaultdict(list)
        self._stars: list[ast.ImportFrom] = []
        self._begun: set[int] = set()
        self._asked: set[str] = set()
        self._patch: ast.stmt | None = None  # what changes more than the text's own
        imported = {name for part in _flat(tree.body) for name in _imports(part)}
        for statement in tree.body:
            for name in dict.fromkeys(_names_of(statement)):
                self._binding[name].append(statement)
            self._patch = self._patch or next((part for part in _flat([statement]) if _patches(part, imported)), None)
            self._stars += [part for part in _flat([statement]) if isinstance(part, ast.ImportFrom) and _is_star(part)]

    def __deepcopy__(self, memo: dict[int, object]) -> Text:
        return self

    def __contains__(self, name: str) -> bool:
        return name in self._binding

    def find(self, name: str) -> object:
        """What the name means once all of the text has run; MISSING if the text does not bind it."""
        if self._patch is not None:
            refusal = NotFollowed("it changes what is not its own")
            refusal.at(self.file, self._patch.lineno)
            raise refusal
        for statement in self._binding.get(name, ()):
            if id(statement) not in self._begun:
                self._begun.add(id(statement))
                try:
                    self._follow(statement)
                except BaseException:
                    self._begun.discard(id(statement))
                    raise
        value = self.scope.names.get(name, MISSING)
        if value is not MISSING:
            return value
        if name in self._binding:
            raise NotFollowed(f"the name {quoted(name)} of `{self.file}` is not bound when it is needed")
        return self._from_stars(name)

    def _follow(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Try):  # what can be imported instead, or what else to do if it cannot
            self.interpreter.run(statement.body, self.scope)
        else:
            self.interpreter.execute(statement, self.scope)

    def _from_stars(self, name: str) -> object:
        if name in self._asked:
            return MISSING  # two texts that import everything from one another
        self._asked.add(name)
        try:
            for star in self._stars:
                module = self.interpreter.vocabulary.module(star.module or "", star.level, self)
                value = self.interpreter.vocabulary.star(module, name)
                if value is not MISSING:
                    return value
        finally:
            self._asked.discard(name)
        return MISSING


def _names_of(statement: ast.stmt) -> Iterator[str]:
    """What it binds, and what it changes by an item or by calling a method."""
    for part in _flat([statement]):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.Import | ast.ImportFrom):
            yield from _imports(part)
        elif isinstance(part, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.Delete):
            yield from (name for target in _targets(part) if not _is_switch(target) for name in _roots(target))
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            called = part.value.func
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.attr in CHANGING:
                yield called.value.id


def _flat(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """These statements and those in their blocks, but not in functions and classes."""
    for statement in statements:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _flat(getattr(statement, field, ()))
            for handler in getattr(statement, "handlers", ()):
                yield from _flat(handler.body)


def _roots(target: ast.expr) -> Iterator[str]:
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from _roots(part)
    elif isinstance(target, ast.Starred | ast.Attribute | ast.Subscript):
        yield from _roots(target.value)
    elif isinstance(target, ast.Name):
        yield target.id


def _targets(part: ast.stmt) -> list[ast.expr]:
    if isinstance(part, ast.Assign | ast.Delete):
        return part.targets
    return [part.target] if isinstance(part, ast.AnnAssign | ast.AugAssign | ast.For) else []


def _imports(part: ast.stmt) -> Iterator[str]:
    if isinstance(part, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name.partition(".")[0]) for alias in part.names if alias.name != "*")


def _is_switch(target: ast.expr) -> bool:
    """How a library works, not what it gives: `torch.backends.cudnn.benchmark`."""
    chain: set[object] = set()
    while isinstance(target, ast.Attribute | ast.Subscript):
        target = target.value
        chain |= {getattr(target, "attr", None), getattr(target, "id", None)}
    return not _SWITCHES.isdisjoint(chain)


def _patches(part: ast.stmt, imported: set[str]) -> bool:
    """Whether a library would no longer be what it is, or nobody can tell what would."""
    if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call) and isinstance(part.value.func, ast.Name):
        return part.value.func.id in _REFLECTING
    attributes = [target for target in _targets(part) if isinstance(target, ast.Attribute) and not _is_switch(target)]
    return any(name in imported for target in attributes for name in _roots(target))


def _is_star(statement: ast.ImportFrom) -> bool:
    return any(alias.name == "*" for alias in statement.names)
