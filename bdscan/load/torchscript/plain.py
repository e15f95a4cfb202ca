"""TorchScript's operators on lists, tables and text, and its questions that have one answer here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bdscan.load.code.interpreter import Interpreter
from bdscan.load.code.refusal import Raised
from bdscan.load.graph.operators import DTYPES
from bdscan.load.graph.record import Value


def is_of_lists(op: str, arguments: Sequence[object]) -> bool:
    """Whether it is about a list, a table or text, and not about tensors or numbers."""
    first = arguments[0] if arguments else None
    return op in _ALWAYS or isinstance(first, list | tuple | dict | str)


def _raise(message: object = "", *_: object) -> None:
    raise Raised(f"its code raises an error: {message if isinstance(message, str) else ''}"[:200])


def _method(name: str) -> Callable[..., object]:
    def run(machine: Interpreter, value: object, *arguments: object) -> object:
        return machine.call(machine.attribute(value, name), *arguments)

    return run


def _operate(name: str) -> Callable[..., object]:
    return lambda machine, *values: machine.operate(name, *values)


def _set_item(machine: Interpreter, value: object, key: object, new: object) -> None:
    machine._set_item(value, key, new)


def _slice(
    machine: Interpreter, value: object, start: object = None, end: object = None, step: object = None
) -> object:
    return machine.item(value, slice(start, end, step))


def _contains(machine: Interpreter, holder: object, wanted: object) -> bool:
    return machine._contains(holder, wanted)


def _format(machine: Interpreter, text: str, *values: object) -> str:
    """Only ever shown in an error: what is no plain value is left out."""
    shown = [value if isinstance(value, bool | int | float | str) else "..." for value in values]
    return machine.budget.made(text + " ".join(map(str, shown)))


def _dtype(x: object) -> int:
    tensor = x.now if isinstance(x, Value) else x
    return DTYPES.index(tensor.dtype) if isinstance(tensor, Tensor) else DTYPES.index(torch.float32)


PLAIN: Mapping[str, Callable[..., object]] = {
    **{name: _method(name) for name in ("append", "extend", "insert", "pop", "reverse", "copy", "clear", "index")},
    **{name: _method(name) for name in ("keys", "values", "items", "get", "update", "setdefault")},
    **{name: _method(name) for name in ("startswith", "endswith", "join", "lower", "upper", "split", "strip")},
    **{name: _operate(name) for name in ("add", "mul", "eq", "ne")},
    "__contains__": _contains,
    "__getitem__": lambda machine, value, key: machine.item(value, key),
    "__is__": lambda machine, one, other: one is other,
    "__isnot__": lambda machine, one, other: one is not other,
    "_set_item": _set_item,
    "dict": lambda machine, *rows: machine.call(machine.builtins["dict"], *rows),
    "format": _format,
    "len": lambda machine, value: len(value),
    "list": lambda machine, value: machine.call(machine.builtins["list"], value),
    "slice": _slice,
    "str": lambda machine, value: _format(machine, "", value),
}
_ALWAYS = frozenset({"__is__", "__isnot__", "format", "str", "dict"})
SETTLED: Mapping[str, Callable[..., object]] = {  # as it is where a net is used: without gradients
    "RaiseException": _raise,
    "dtype": _dtype,
    "get_autocast_dtype": lambda *_: DTYPES.index(torch.float32),
    "is_autocast_enabled": lambda *_: False,
    "is_autocast_cpu_enabled": lambda *_: False,
    "is_grad_enabled": lambda *_: False,
    "is_nested": lambda *_: False,
    "is_quantized": lambda *_: False,
    "is_sparse": lambda *_: False,
    "layout": lambda *_: 0,
    "requires_grad": lambda *_: False,
    "unchecked_unwrap_optional": lambda value: value,
    "warn": lambda *_: None,
    "_unwrap_optional": lambda value: value,
    "data": lambda value: value,
}
