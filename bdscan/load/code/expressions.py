"""Expressions worked out, node by node."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bdscan.load.code.budget import LONGEST, Budget
from bdscan.load.code.builtin import builtins, key_of, method
from bdscan.load.code.plain import OPERATORS, formatted, is_plain, operate, same, within_bounds
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.values import (
    MISSING,
    Bindings,
    Class,
    Function,
    Instance,
    Method,
    Native,
    Object,
    Scope,
    Super,
    Unknown,
    Wrapped,
)
from bdscan.load.code.vocabulary import Vocabulary
from bdscan.load.pickle.effects import quoted


class Expressions:
    """What every expression gives; calling what the text defines is left to `call`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.budget = vocabulary, Budget()
        self.builtins = builtins(self)
        self._kinds: Mapping[type[ast.AST], Callable[..., object]] = {
            ast.Constant: self._constant,
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Subscript: self._subscript,
            ast.Call: self._call,
            ast.BinOp: self._binary,
            ast.UnaryOp: self._unary,
            ast.BoolOp: self._both,
            ast.Compare: self._compare,
            ast.IfExp: lambda node, scope: self.value(node.body if self.test(node.test, scope) else node.orelse, scope),
            ast.List: lambda node, scope: self.budget.made(list(self._entries(node.elts, scope))),
            ast.Tuple: lambda node, scope: self.budget.made(tuple(self._entries(node.elts, scope))),
            ast.Set: lambda node, scope: self.budget.made({key_of(part) for part in self._entries(node.elts, scope)}),
            ast.Dict: self._dict,
            ast.ListComp: self._comprehension,
            ast.GeneratorExp: self._comprehension,
            ast.SetComp: lambda node, scope: self.budget.made(set(map(key_of, self._comprehension(node, scope)))),
            ast.DictComp: self._dict_comprehension,
            ast.Lambda: self.function,
            ast.JoinedStr: lambda node, scope: self.budget.made("".join(self._parts(node, scope))),
            ast.Slice: self._slice,
            ast.NamedExpr: self._named,
        }

    def value(self, node: ast.expr, scope: Scope) -> object:
        self.budget.step()
        kind = self._kinds.get(type(node))
        if kind is None:
            raise NotFollowed(f"`{type(node).__name__.lower()}` is not something bdscan follows")
        return kind(node, scope)

    def test(self, node: ast.expr, scope: Scope) -> bool:
        return self.truth(self.value(node, scope))

    def call(self, function: object, /, *arguments: object, **named: object) -> object:
        raise NotImplementedError

    def function(self, node: ast.FunctionDef | ast.Lambda, scope: Scope) -> Function:
        raise NotImplementedError

    def fill(
        self, created: Object, fields: Sequence[str], arguments: Sequence[object], named: Mapping[str, object]
    ) -> None:
        raise NotImplementedError

    def set_attribute(self, value: object, name: str, new: object) -> None:
        raise NotImplementedError

    def bind(self, target: ast.expr, value: object, scope: Scope) -> None:
        raise NotImplementedError

    def truth(self, value: object) -> bool:
        if isinstance(value, Unknown):
            raise value.refuse()
        if is_plain(value) or isinstance(value, Function | Class | Method | Native | Instance):
            return bool(value)
        return self.vocabulary.truth(value)

    def iterate(self, value: object) -> Iterable[object]:
        if isinstance(value, Unknown):
            raise value.refuse()
        if isinstance(value, str | list | tuple | dict | set | range) and is_plain(value):
            return self._counted(value if isinstance(value, range) else list(value))
        return self._counted(self.vocabulary.iterate(value))

    def _counted(self, values: Iterable[object]) -> Iterator[object]:
        for value in values:
            self.budget.step()
            yield value

    def operate(self, name: str, *values: object) -> object:
        for value in values:
            if isinstance(value, Unknown):
                raise value.refuse()
        if all(map(is_plain, values)):
            return operate(self.budget, name, *values)
        if name in ("eq", "ne") and any(isinstance(value, Function | Class | type(None)) for value in values):
            return (values[0] is values[1]) == (name == "eq")
        return self.vocabulary.operate(name, *values)

    def attribute(self, value: object, name: str) -> object:
        """An attribute of a value: its own, its class's, or what the vocabulary says."""
        if isinstance(value, Unknown):
            raise value.refuse()
        if name.startswith("__") and name.endswith("__"):
            return self._dunder(value, name)
        if isinstance(value, Object):
            own = value.read(name)
            own = self._bound(value.kind.find(name), value, value.kind) if own is MISSING else own
            if own is MISSING and isinstance(value, Instance):
                raise AttributeError(f"an object of {value.kind.name} has no {name}")
            return self.vocabulary.attribute(value, name) if own is MISSING else own
        if isinstance(value, Class):
            own = self._bound(value.find(name), None, value)
            return self.vocabulary.inherited(None, value, name) if own is MISSING else own
        if isinstance(value, Super):
            return self.above(value, name)
        return method(self, value, name) if is_plain(value) else self.vocabulary.attribute(value, name)

    def _dunder(self, value: object, name: str) -> object:
        if isinstance(value, Super) and name == "__init__":
            return self.above(value, name)
        if isinstance(value, Class) and name == "__init__":  # `Base.__init__(self, ...)`
            own = value.find(name)
            return self.vocabulary.inherited(None, value, name) if own is MISSING else own
        if isinstance(value, Class | Function) and name in ("__name__", "__qualname__"):
            return value.name
        if isinstance(value, Object) and name == "__class__":
            return value.kind
        return self.vocabulary.attribute(value, name)

    def above(self, value: Super, name: str) -> object:
        """What `super()` gives: the next class of the text that has it, else the vocabulary's."""
        receiver = value.receiver
        assert isinstance(receiver, Object | Class)  # `_super` has checked it
        kind = receiver.kind if isinstance(receiver, Object) else value.after
        found = self._bound(kind.find(name, after=value.after), receiver, kind)
        if found is not MISSING:
            return found
        if name == "__init__" and isinstance(receiver, Object) and not kind.roots:
            behind = kind.order[kind.order.index(value.after) + 1 :]
            fields = next((one.fields for one in behind if one.fields), ())
            return Native(name, lambda *given, **named: self.fill(receiver, fields, given, named))
        return self.vocabulary.inherited(receiver, kind, name)

    def _bound(self, found: object, receiver: object, kind: Class) -> object:
        if isinstance(found, Function) and receiver is not None:
            return Method(found, receiver)
        if isinstance(found, Wrapped):
            if found.kind == "property" and receiver is not None:
                return self.call(found.function, receiver)
            return Method(found.function, kind) if found.kind == "classmethod" else found.function
        return found

    def _constant(self, node: ast.Constant, scope: Scope) -> object:
        if isinstance(node.value, bytes | complex):
            raise NotFollowed("it has bytes or a complex number")
        if isinstance(node.value, str):
            self.budget.room(len(node.value))
        return within_bounds(node.value)

    def _name(self, node: ast.Name, scope: Scope) -> object:
        value = scope.find(node.id)
        if value is MISSING:
            value = self.vocabulary.name(node.id)
        if value is MISSING:
            value = self.builtins.get(node.id, MISSING)
        if value is MISSING:
            raise NotFollowed(f"the name {quoted(node.id)} is not something bdscan follows")
        return value

    def _attribute(self, node: ast.Attribute, scope: Scope) -> object:
        return self.attribute(self.value(node.value, scope), node.attr)

    def _subscript(self, node: ast.Subscript, scope: Scope) -> object:
        return self.item(self.value(node.value, scope), self.value(node.slice, scope))

    def item(self, value: object, key: object) -> object:
        if isinstance(value, Unknown):
            raise value.refuse()
        if isinstance(value, str | list | tuple | range) and is_plain(value) and isinstance(key, int | slice):
            part: object = value[key]
            return self.budget.made(part) if isinstance(key, slice) and isinstance(part, str | list | tuple) else part
        if isinstance(value, dict) and is_plain(value):
            return value[key_of(key)]
        if is_plain(value):
            raise TypeError("it has no such items")
        return self.vocabulary.item(value, key)

    def _call(self, node: ast.Call, scope: Scope) -> object:
        if isinstance(node.func, ast.Name) and node.func.id == "super" and scope.find("super") is MISSING:
            return self._super(node, scope)
        function = self.value(node.func, scope)
        arguments = list(self._entries(node.args, scope))
        named: Bindings = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is not None:
                named[keyword.arg] = value
            elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
                named.update(value)
            else:
                raise TypeError("only a table of names is given as keywords")
        return self.call_at(node, scope, function, arguments, named)

    def call_at(
        self, node: ast.Call, scope: Scope, function: object, arguments: list[object], named: Bindings
    ) -> object:
        """A call at a place of the text; a vocabulary may want to know which."""
        return self.call(function, *arguments, **named)

    def _super(self, node: ast.Call, scope: Scope) -> Super:
        if node.args:
            after, receiver = (self.value(argument, scope) for argument in node.args)
        else:
            after, receiver = scope.method_of, scope.receiver
        if not isinstance(after, Class) or not isinstance(receiver, Object | Class):
            raise NotFollowed("`super()` outside a method is not something bdscan follows")
        return Super(after, receiver)

    def _entries(self, nodes: list[ast.expr], scope: Scope) -> Iterator[object]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self.iterate(self.value(node.value, scope))
            else:
                yield self.value(node, scope)

    def _binary(self, node: ast.BinOp, scope: Scope) -> object:
        left = self.value(node.left, scope)
        return self.operate(OPERATORS[type(node.op)], left, self.value(node.right, scope))

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> object:
        if isinstance(node.op, ast.Not):
            return not self.test(node.operand, scope)
        return self.operate(OPERATORS[type(node.op)], self.value(node.operand, scope))

    def _both(self, node: ast.BoolOp, scope: Scope) -> object:
        value: object = None
        for part in node.values:
            value = self.value(part, scope)
            if self.truth(value) == isinstance(node.op, ast.Or):
                break
        return value

    def _compare(self, node: ast.Compare, scope: Scope) -> object:
        left, result = self.value(node.left, scope), object()
        for i, (sign, part) in enumerate(zip(node.ops, node.comparators, strict=True)):
            if i and not self.truth(result):
                break
            right = self.value(part, scope)
            result = self._compared(sign, left, right)
            left = right
        return result

    def _compared(self, sign: ast.cmpop, left: object, right: object) -> object:
        if isinstance(sign, ast.Is | ast.IsNot):
            same = left is right or (isinstance(left, int | str) and type(left) is type(right) and left == right)
            return same == isinstance(sign, ast.Is)
        if isinstance(sign, ast.In | ast.NotIn):
            return self._contains(right, left) == isinstance(sign, ast.In)
        return self.operate(OPERATORS[type(sign)], left, right)

    def _contains(self, holder: object, wanted: object) -> bool:
        if isinstance(holder, str) and isinstance(wanted, str):
            return wanted in holder
        if isinstance(holder, dict | set) and is_plain(holder):
            return key_of(wanted) in holder
        if not is_plain(holder):
            return self.truth(self.operate("contains", holder, wanted))
        return any(same(self.budget, entry, wanted) for entry in self.iterate(holder))

    def _dict(self, node: ast.Dict, scope: Scope) -> object:
        table: dict[object, object] = {}
        for key, entry in zip(node.keys, node.values, strict=True):
            value = self.value(entry, scope)
            if key is not None:
                table[key_of(self.value(key, scope))] = value
            elif isinstance(value, dict):
                table.update(value)
            else:
                raise TypeError("only a table is unpacked into a table")
        return self.budget.made(table)

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: Scope) -> list[object]:
        inner = Scope(scope)
        found: list[object] = []
        for _ in self._rounds(node.generators, inner):
            found.append(self.value(node.elt, inner))
            self._not_too_long(len(found))
        return self.budget.made(found)

    def _dict_comprehension(self, node: ast.DictComp, scope: Scope) -> object:
        inner, table = Scope(scope), dict[object, object]()
        for _ in self._rounds(node.generators, inner):
            key = key_of(self.value(node.key, inner))
            table[key] = self.value(node.value, inner)
            self._not_too_long(len(table))
        return self.budget.made(table)

    def _not_too_long(self, count: int) -> None:
        if count > LONGEST:
            self.budget.room(count)

    def _rounds(self, generators: list[ast.comprehension], scope: Scope) -> Iterator[None]:
        """Once for everything the `for`s of a comprehension go through."""
        if not generators:
            yield
            return
        first, *others = generators
        if first.is_async:
            raise NotFollowed("`async` is not something bdscan follows")
        for value in self.iterate(self.value(first.iter, scope)):
            self.bind(first.target, value, scope)
            if all(self.test(condition, scope) for condition in first.ifs):
                yield from self._rounds(others, scope)

    def _parts(self, node: ast.expr | None, scope: Scope) -> Iterator[str]:
        for part in node.values if isinstance(node, ast.JoinedStr) else ():
            if isinstance(part, ast.FormattedValue):
                specifier = "".join(self._parts(part.format_spec, scope))
                if part.conversion not in (-1, ord("s")):
                    raise NotFollowed("it writes out more than numbers and texts")
                yield formatted(self.value(part.value, scope), specifier)
            elif isinstance(part, ast.Constant):
                yield str(part.value)

    def _slice(self, node: ast.Slice, scope: Scope) -> slice:
        return slice(*(self.value(part, scope) if part else None for part in (node.lower, node.upper, node.step)))

    def _named(self, node: ast.NamedExpr, scope: Scope) -> object:
        value = self.value(node.value, scope)
        self.bind(node.target, value, scope)
        return value
