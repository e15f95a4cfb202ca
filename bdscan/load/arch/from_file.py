"""The user's own net: `FILE.py:factory`, run because the user says so."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from bdscan.facts.problem import USAGE, Problem, unusable
from bdscan.load.nets.candidate import Candidate, Outline

SIZES = (32, 28, 64, 224, 96, 128, 299)  # CIFAR and GTSRB, MNIST, Tiny ImageNet, ImageNet, STL-10


def candidates(spec: str, outline: Outline, classes: int | None) -> Iterator[Candidate]:
    """The factory called in every way it can be, with every number of classes the tensors allow."""
    place, _, name = spec.rpartition(":")
    path = Path(place).expanduser()
    factory = function(path, name)
    if factory is None:
        raise unusable(f"`{path}` has no function `{name}`")
    calls = list(_calls(factory, [classes] if classes else counts(outline)))
    if not calls:
        message = f"`{name}` in `{path}` cannot be called with a number of classes alone"
        raise unusable(message, "write a factory of the form `def net(num_classes): ...`")
    for call in calls:
        yield Candidate(
            name=f"{path.name}:{name}", build=partial(_build, call, path, name), sizes=SIZES, needs_real_tensors=True
        )


def function(path: Path, name: str) -> Callable[..., Any] | None:
    """What the user's own file calls by this name, if it can be called."""
    factory = getattr(_module(path), name, None)
    return factory if callable(factory) else None


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise unusable(f"no such file: `{path}`", "--arch takes FILE.py:factory")
    name = f"_arch_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look there
    sys.path.insert(0, str(path.parent.resolve()))  # it may import its neighbours
    usual, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left behind beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _factory_problem(path, error) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
        sys.dont_write_bytecode = usual
    return module


def _calls(factory: Callable[..., Any], counts: list[int]) -> Iterator[Callable[[], Any]]:
    """`factory(num_classes=K)`, `factory(K)`, `factory()`: those that its signature allows, in this order."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C
        return
    ways: list[tuple[tuple[int, ...], dict[str, int]]] = [((), {"num_classes": count}) for count in counts]
    ways += [((count,), {}) for count in counts]
    for args, settings in (*ways, ((), {})):
        try:
            signature.bind(*args, **settings)
        except TypeError:
            continue
        yield partial(factory, *args, **settings)


def counts(outline: Outline) -> list[int]:
    """How many classes there may be: the last weight in the file, then every linear layer that feeds no other."""
    linear = [shape for shape in outline.values() if len(shape) == 2]
    widths_in = {shape[1] for shape in linear}
    ends = [shape[0] for shape in reversed(linear) if shape[0] not in widths_in]
    return list(dict.fromkeys(ends + [shape[0] for shape in reversed(linear)]))[:4] or [10]


def _build(call: Callable[[], Any], path: Path, name: str) -> nn.Module:
    try:
        net = call()
    except Exception as error:
        raise _factory_problem(path, error) from error
    if not isinstance(net, nn.Module):
        raise unusable(f"`{name}` in `{path}` returned a {type(net).__name__}, not a torch module")
    return net


def _factory_problem(path: Path, error: BaseException) -> Problem:
    traceback, line = error.__traceback__, ""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = f", line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return Problem(f"`{path}`{line}: {type(error).__name__}: {error}", status=USAGE)
