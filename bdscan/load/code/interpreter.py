"""Statements, and calls of what the text defines."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bdscan.load.code.budget import Budget
from bdscan.load.code.builtin import key_of
from bdscan.load.code.expressions import Expressions
from bdscan.load.code.plain import OPERATORS, is_plain
from bdscan.load.code.refusal import NotFollowed, Raised
from bdscan.load.code.values import (
    MISSING,
    Bindings,
    Class,
    Function,
    Instance,
    Method,
    Names,
    Native,
    Object,
    Scope,
    Unknown,
    Wrapped,
)
from bdscan.load.code.vocabulary import Vocabulary
from bdscan.load.pickle.effects import quoted

_WRAPPERS = ("property", "staticmethod", "classmethod")


@dataclass(frozen=True, eq=False)
class _End:
    """What ends a block before its last statement: `break`, `continue`, or `return` with a value."""

    kind: type[ast.stmt]
    value: object = None


class Interpreter(Expressions):
    """Follows statements within a budget; nothing that it meets is ever handed to Python to run."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._statements: Mapping[type[ast.stmt], Callable[..., _End | None]] = {
            ast.Expr: self._expression,
            ast.Assign: self._assign,
            ast.AnnAssign: self._annotated,
            ast.AugAssign: self._augmented,
            ast.If: lambda node, scope: self.run(node.body if self.test(node.test, scope) else node.orelse, scope),
            ast.For: self._for,
            ast.While: self._while,
            ast.Return: lambda node, scope: _End(ast.Return, self.value(node.value, scope) if node.value else None),
            ast.Break: lambda node, scope: _End(ast.Break),
            ast.Continue: lambda node, scope: _End(ast.Continue),
            ast.Pass: lambda node, scope: None,
            ast.Assert: self._assert,
            ast.Raise: self._raise,
            ast.FunctionDef: self._define,
            ast.ClassDef: self._class,
            ast.Import: self._import,
            ast.ImportFrom: self._import_from,
            ast.Delete: self._delete,
            ast.With: self._with,
        }

    def __deepcopy__(self, memo: dict[int, object]) -> Interpreter:
        return self

    @contextmanager
    def running(self, budget: Budget) -> Iterator[None]:
        """While the block lasts, everything is counted against this budget; a failure of depth is a refusal."""
        outer, self.budget = self.budget, budget
        try:
            yield
        except (RecursionError, MemoryError) as error:
            raise NotFollowed(f"it is nested too deeply or too large ({type(error).__name__})") from None
        finally:
            self.budget = outer

    def run(self, body: Sequence[ast.stmt], scope: Scope) -> _End | None:
        for statement in body:
            end = self.execute(statement, scope)
            if end is not None:
                return end
        return None

    def execute(self, statement: ast.stmt, scope: Scope) -> _End | None:
        self.budget.step()
        kind = self._statements.get(type(statement))
        try:
            if kind is None:
                raise NotFollowed(f"`{type(statement).__name__.lower()}` is not something bdscan follows")
            return kind(statement, scope)
        except NotFollowed as refusal:
            refusal.at(scope.file, statement.lineno)
            raise

    def call(self, function: object, /, *arguments: object, **named: object) -> object:
        if isinstance(function, Function):
            return self._apply(function, arguments, named)
        if isinstance(function, Method):
            return self._apply(function.function, (function.receiver, *arguments), named)
        if isinstance(function, Class):
            return self._create(function, arguments, named)
        if isinstance(function, Native):
            return function.run(*arguments, **named)
        if isinstance(function, Unknown):
            raise function.refuse()
        if isinstance(function, Instance):
            return self.call(self._special(function, "__call__"), *arguments, **named)
        return self.vocabulary.call(function, arguments, named)

    def _special(self, value: Instance, name: str) -> Method:
        found = value.kind.find(name)
        if not isinstance(found, Function):
            raise TypeError(f"an object of {value.kind.name} has no {name}")
        return Method(found, value)

    def _apply(self, function: Function, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        self.budget.calls -= 1
        if self.budget.calls < 0:
            raise NotFollowed("its calls are nested deeper than any net's")
        try:
            names = _bound(function, arguments, named)
            if function.node.args.kwarg:
                self.budget.own(names[function.node.args.kwarg.arg])
            scope = Scope(function.around, names, function.owner)
            if isinstance(function.node, ast.Lambda):
                return self.value(function.node.body, scope)
            end = self.run(function.node.body, scope)
            return end.value if end is not None else None
        finally:
            self.budget.calls += 1

    def _create(self, kind: Class, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        created: Object = self.vocabulary.create(kind) if kind.roots else Instance(kind)
        self.budget.own(created)
        init = kind.find("__init__")
        if isinstance(init, Function):
            self._apply(init, (created, *arguments), named)
        elif kind.roots:
            self.call(self.vocabulary.inherited(created, kind, "__init__"), *arguments, **named)
        elif kind.filled:
            self.fill(created, kind.filled, arguments, named)
        elif arguments or named:
            raise TypeError(f"{kind.name} takes no arguments")
        return created

    def fill(
        self, created: Object, fields: Sequence[str], arguments: Sequence[object], named: Mapping[str, object]
    ) -> None:
        """As the `__init__` of a dataclass does."""
        given = dict(zip(fields, arguments, strict=False)) | dict(named)
        if len(arguments) > len(fields) or not given.keys() <= set(fields):
            raise TypeError(f"{created.kind.name} has no such fields")
        for name in fields:
            value = given.get(name, created.kind.find(name))
            if value is MISSING:
                raise TypeError(f"{created.kind.name} lacks {name}")
            created.write(name, value)

    def function(self, node: ast.FunctionDef | ast.Lambda, scope: Scope) -> Function:
        given = node.args
        defaults = [self.value(default, scope) for default in given.defaults]
        pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        keyword_defaults = {argument.arg: self.value(default, scope) for argument, default in pairs if default}
        return Function(node, scope, defaults, keyword_defaults)

    def _define(self, node: ast.FunctionDef, scope: Scope) -> None:
        function: object = self.function(node, scope)
        for decorator in reversed(node.decorator_list):
            function = self._decorated(decorator, function, scope)
        scope.names[node.name] = function

    def _decorated(self, decorator: ast.expr, decorated: object, scope: Scope) -> object:
        if isinstance(decorator, ast.Name) and decorator.id in _WRAPPERS and scope.find(decorator.id) is MISSING:
            if not isinstance(decorated, Function):
                raise NotFollowed(f"`{decorator.id}` of this is not something bdscan follows")
            return Wrapped(decorator.id, decorated)
        if not isinstance(decorated, Function | Class):
            raise NotFollowed("such decorators are not something bdscan follows")
        value = self.value(decorator, scope)
        if isinstance(value, Unknown):
            raise value.refuse()
        return self.vocabulary.decorate(value, decorated)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        if node.keywords:
            raise NotFollowed(f"the metaclass of {quoted(node.name)} is not something bdscan follows")
        bases = [self.value(base, scope) for base in node.bases]
        for base in bases:
            if isinstance(base, Unknown):
                raise base.refuse()
        kind = Class(node.name, [base for base in bases if base is not self.builtins["object"]])
        inner = Scope(scope, kind.members)
        self.run([part for part in node.body if not isinstance(part, ast.AnnAssign) or part.value], inner)
        kind.members = {name: _owned(member, kind, inner, scope) for name, member in kind.members.items()}
        if forbidden := [name for name, member in kind.members.items() if _is_special(name) and not is_plain(member)]:
            raise NotFollowed(f"a class with {quoted(forbidden[0])} is not something bdscan follows")
        targets = [part.target for part in node.body if isinstance(part, ast.AnnAssign)]
        annotated = [target.id for target in targets if isinstance(target, ast.Name)]
        decorated: object = kind
        for decorator in reversed(node.decorator_list):
            kind.fields = tuple(dict.fromkeys([*kind.filled, *annotated]))
            decorated = self._decorated(decorator, decorated, scope)
        scope.names[node.name] = decorated

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        if not isinstance(node.value, ast.Constant):
            self.value(node.value, scope)

    def _assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            self.bind(target, value, scope)

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self.bind(node.target, self.value(node.value, scope), scope)

    def _augmented(self, node: ast.AugAssign, scope: Scope) -> None:
        """A list grows in place; of everything else a new value is made, tensors too, so that no map is overwritten."""
        reading = _reading(node.target)
        old, more = self.value(reading, scope), self.value(node.value, scope)
        if isinstance(old, list) and isinstance(node.op, ast.Add):
            self.call(self.attribute(old, "extend"), more)
        else:
            self.bind(node.target, self.operate(OPERATORS[type(node.op)], old, more), scope)

    def bind(self, target: ast.expr, value: object, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, ast.Attribute):
            self.set_attribute(self.value(target.value, scope), target.attr, value)
        elif isinstance(target, ast.Subscript):
            self._set_item(self.value(target.value, scope), self.value(target.slice, scope), value)
        elif isinstance(target, ast.Tuple | ast.List):
            self._unpack(target.elts, list(self.iterate(value)), scope)
        else:
            raise NotFollowed("such an assignment is not something bdscan follows")

    def _unpack(self, targets: Sequence[ast.expr], values: list[object], scope: Scope) -> None:
        starred = next((i for i, target in enumerate(targets) if isinstance(target, ast.Starred)), None)
        if starred is not None:
            after = len(targets) - starred - 1
            rest = values[starred : len(values) - after]
            values = [*values[:starred], self.budget.made(rest), *values[len(values) - after :]]
        for target, value in zip(targets, values, strict=True):
            self.bind(target.value if isinstance(target, ast.Starred) else target, value, scope)

    def set_attribute(self, value: object, name: str, new: object) -> None:
        if _is_special(name) or (name.startswith("__") and name.endswith("__")):
            raise NotFollowed(f"it sets {quoted(name)}")
        if isinstance(value, Instance):
            self.budget.may_change(value)
            value.write(name, new)
        else:
            self.vocabulary.assign(value, name, new)

    def _set_item(self, value: object, key: object, new: object) -> None:
        if isinstance(value, list | dict) and is_plain(value):
            self.budget.may_change(value)
            self.budget.room(1)
            if isinstance(value, dict):
                value[key_of(key)] = new
            elif isinstance(key, int):
                value[key] = new
            else:
                raise NotFollowed("it sets several items of a list at once")
        else:
            self.vocabulary.set_item(value, key, new)

    def _for(self, node: ast.For, scope: Scope) -> _End | None:
        for value in self.iterate(self.value(node.iter, scope)):
            self.bind(node.target, value, scope)
            end = self.run(node.body, scope)
            if end is not None and end.kind is not ast.Continue:
                return end if end.kind is ast.Return else None
        return self.run(node.orelse, scope)

    def _while(self, node: ast.While, scope: Scope) -> _End | None:
        while self.test(node.test, scope):
            self.budget.step()
            end = self.run(node.body, scope)
            if end is not None and end.kind is not ast.Continue:
                return end if end.kind is ast.Return else None
        return self.run(node.orelse, scope)

    def _assert(self, node: ast.Assert, scope: Scope) -> None:
        if not self.test(node.test, scope):
            raise Raised(f"`{scope.file}`, line {node.lineno}: what is asserted there does not hold")

    def _raise(self, node: ast.Raise, scope: Scope) -> None:
        raise Raised(f"`{scope.file}`, line {node.lineno}: it raises an error")

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            if alias.asname:
                scope.names[alias.asname] = self.vocabulary.module(alias.name, 0, scope)
            else:
                first = alias.name.partition(".")[0]
                scope.names[first] = self.vocabulary.module(first, 0, scope)

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = self.vocabulary.module(node.module or "", node.level, scope)
        for alias in node.names:
            if alias.name == "*":
                raise NotFollowed("importing `*` here is not something bdscan follows")
            scope.names[alias.asname or alias.name] = self.imported(module, alias.name)

    def imported(self, module: object, name: str) -> object:
        """What `from module import name` gives; of a module that nobody vouches for, nothing is."""
        if isinstance(module, Unknown):
            return Unknown(f"{quoted(name)} of {module.what}")
        return self.attribute(module, name)

    def _delete(self, node: ast.Delete, scope: Scope) -> None:
        for target in node.targets:
            if not isinstance(target, ast.Name) or scope.names.pop(target.id, MISSING) is MISSING:
                raise NotFollowed("deleting this is not something bdscan follows")

    def _with(self, node: ast.With, scope: Scope) -> _End | None:
        for item in node.items:
            value = self.vocabulary.within(self.value(item.context_expr, scope))
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value, scope)
        return self.run(node.body, scope)


def _bound(function: Function, arguments: Sequence[object], named: Mapping[str, object]) -> Bindings:
    """Every parameter by its name, in order, as Python binds them."""
    given = function.node.args
    places = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    names = dict(zip(places[len(places) - len(function.defaults) :], function.defaults, strict=True))
    names |= function.keyword_defaults
    taken = dict(zip(places, arguments, strict=False))
    rest = dict(named)
    by_name = [argument.arg for argument in (*given.args, *given.kwonlyargs)]
    for name in by_name:
        if name in rest and name in taken:
            raise TypeError(f"{function.name} is given `{name}` twice")
    taken |= {name: rest.pop(name) for name in by_name if name in rest}
    names |= taken
    if (len(arguments) > len(places) and not given.vararg) or (rest and not given.kwarg):
        raise TypeError(f"{function.name} takes no such arguments")
    order = [*places, *(argument.arg for argument in given.kwonlyargs)]
    if missing := [name for name in order if name not in names]:
        raise TypeError(f"{function.name} lacks `{missing[0]}`")
    bound = {name: names[name] for name in order}
    if given.vararg:
        bound[given.vararg.arg] = tuple(arguments[len(places) :])
    if given.kwarg:
        bound[given.kwarg.arg] = rest
    return bound


def _owned(member: object, kind: Class, inner: Scope, around: Names) -> object:
    """A method does not see the names of the class's body, and knows whose it is."""
    if isinstance(member, Wrapped):
        return replace(member, function=replace(member.function, owner=kind, around=around))
    if isinstance(member, Function) and member.around is inner:
        return replace(member, owner=kind, around=around)
    return member


def _is_special(name: str) -> bool:
    """Python's hooks, but for the few that mean here what they mean there."""
    special = name.startswith("__") and name.endswith("__")
    return special and name not in (
        "__init__",
        "__call__",
        "__repr__",
        "__str__",
        "__doc__",
        "__len__",
        "__constants__",
    )


def _reading(target: ast.expr) -> ast.expr:
    """The target as an expression."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    if isinstance(target, ast.Attribute):
        return ast.Attribute(target.value, target.attr, ast.Load())
    assert isinstance(target, ast.Subscript)
    return ast.Subscript(target.value, target.slice, ast.Load())
