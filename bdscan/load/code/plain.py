"""Sums on plain values (numbers, text, lists, tables), none larger than a net's source needs."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence

from bdscan.load.code.budget import LARGEST, Budget
from bdscan.load.code.refusal import NotFollowed

NUMBERS = (bool, int, float)
PLAIN = (*NUMBERS, str, list, tuple, dict, set, slice, range, type(None), type(...))
_SEQUENCES = (str, list, tuple)
OPERATORS: Mapping[type[ast.AST], str] = {
    **{ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod"},
    **{ast.Pow: "pow", ast.LShift: "lshift", ast.RShift: "rshift", ast.BitOr: "or_", ast.BitAnd: "and_"},
    **{ast.BitXor: "xor", ast.MatMult: "matmul", ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"},
    **{ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"},
}
_ON_NUMBERS: Mapping[str, Callable[..., object]] = {name: getattr(operator, name) for name in OPERATORS.values()}
_ON_OTHERS = frozenset({"add", "eq", "ne", "lt", "le", "gt", "ge", "or_", "and_", "sub", "xor"})
_SPECIFIER = re.compile(r"[<>^]?0?\d{0,2},?(\.\d)?[dfeg%s]?")
_PERCENT = re.compile(r"%(?:0?\d{0,2}(?:\.\d)?[sdifger]|%)")
_BRACES = re.compile(r"\{(\d{0,2}|[a-z]\w{0,30})(?::([^{}]{0,6}))?\}")


def is_plain(value: object) -> bool:
    return type(value) in PLAIN


def within_bounds(value: object) -> object:
    """A number that is not beyond what torch takes."""
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise NotFollowed("it has a number far larger than any net's")
    if isinstance(value, complex):
        raise NotFollowed("it has a complex number")
    return value


def operate(budget: Budget, name: str, *values: object) -> object:
    """Both sides are plain; whatever Python itself would raise is raised."""
    if all(type(value) in NUMBERS for value in values):
        return _on_numbers(name, *values)
    if name == "mod" and isinstance(values[0], str):
        return budget.made(_percent(*values))  # type: ignore[arg-type]
    if name == "mul" and len(values) == 2:
        return budget.made(_repeated(budget, *values))
    if name not in _ON_OTHERS:
        raise TypeError(f"unsupported operands of {name}")
    if name in ("eq", "ne"):
        return same(budget, *values) == (name == "eq")
    if name in ("lt", "le", "gt", "ge") and not all(map(_is_flat, values)):
        raise NotFollowed("it compares more than numbers and texts")
    if name == "add" and all(type(value) in _SEQUENCES for value in values):
        budget.room(sum(len(value) for value in values if isinstance(value, Sequence)))
    result: object = _ON_NUMBERS[name](*values)
    return budget.made(result) if isinstance(result, str | list | tuple | dict | set) else result


def same(budget: Budget, one: object, other: object) -> bool:
    """Whether plain values are equal, entry by entry, each of them counted: the same list may stand in many places."""
    budget.step()
    if one is other or not is_plain(one) or not is_plain(other):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(budget, one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        assert isinstance(other, list | tuple)
        return len(one) == len(other) and all(same(budget, *pair) for pair in zip(one, other, strict=True))
    return type(one) not in (list, tuple, dict) and type(other) not in (list, tuple, dict) and one == other


def _is_flat(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else (value,)
    return all(type(part) in (*NUMBERS, str) for part in parts)


def _on_numbers(name: str, *values: object) -> object:
    if name == "pow":
        base, exponent = values
        assert isinstance(base, int | float)
        assert isinstance(exponent, int | float)
        if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > 80:
            raise NotFollowed("it has a number far larger than any net's")
    if name == "lshift" and (not isinstance(values[1], int) or values[1] > 62):
        raise NotFollowed("it has a number far larger than any net's")
    if name == "matmul":
        raise TypeError("numbers have no matrix product")
    return within_bounds(_ON_NUMBERS[name](*values))


def _repeated(budget: Budget, one: object, other: object) -> str | list[object] | tuple[object, ...]:
    times, sequence = (one, other) if isinstance(one, int) else (other, one)
    if not isinstance(times, int) or not isinstance(sequence, str | list | tuple):
        raise TypeError("only sequences are repeated, a whole number of times")
    budget.room(len(sequence) * max(0, times))
    return sequence * times


def formatted(value: object, specifier: str = "") -> str:
    """A number or a text within another, in at most a hundred letters beside its own; a short row of them."""
    if type(value) in (list, tuple) and not specifier and _is_flat(value) and len(value) < 20:  # type: ignore[arg-type]
        return str(value)
    if not (type(value) in (*NUMBERS, str, type(None)) and _SPECIFIER.fullmatch(specifier)):
        raise NotFollowed("it writes out more than numbers and texts")
    return format(value, specifier)


def _percent(text: str, values: object) -> str:
    rest = values if isinstance(values, tuple) else (values,)
    if "%" in _PERCENT.sub("", text) or not all(type(value) in (*NUMBERS, str, type(None)) for value in rest):
        raise NotFollowed("it writes out more than numbers and texts")
    return text % rest


def braces(text: str, arguments: Sequence[object], named: Mapping[str, object]) -> str:
    """`text.format(...)`, where no field asks for an attribute or an item."""
    if re.search(r"[{}]", _BRACES.sub("", text)):
        raise NotFollowed("it formats text in a way that is not followed")
    places = iter(range(len(arguments)))

    def filled(field: re.Match[str]) -> str:
        key = field[1]
        value = named[key] if key and not key.isdigit() else arguments[int(key) if key else next(places, 99)]
        return formatted(value, field[2] or "")

    return _BRACES.sub(filled, text)
