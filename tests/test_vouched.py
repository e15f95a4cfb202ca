"""The list of classes is true of the libraries that are here."""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from types import ModuleType

from torch import nn

from docs.vouched_classes import LIST


def test_what_is_listed_is_a_class_and_nothing_else() -> None:
    """A module that is listed and there holds, under each listed name that it has, a class: never a function, or a
    module that it imported."""
    for module_name, names in json.loads(LIST.read_text()).items():
        module = imported(module_name)
        for name in names.split():
            value = getattr(module, name.removesuffix("="), None)
            assert value is None or inspect.isclass(value), f"{module_name}.{name}"


def imported(name: str) -> ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception:  # not installed, or for another system
            return None


def test_the_layers_of_torch_are_listed() -> None:
    listed = {module: names.replace("=", "").split() for module, names in json.loads(LIST.read_text()).items()}
    layers = [kind for kind in vars(nn).values() if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    assert len(layers) > 100
    assert [kind.__name__ for kind in layers if kind.__name__ not in listed.get(kind.__module__, [])] == []
