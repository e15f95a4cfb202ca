"""Lists the classes that pickled nets are made of, for `bdscan/load/pickle/vouched_classes.json`: `make vouched`.

A name in a pickle is looked up in a module, and a module holds more than its classes: functions, other modules, what
it imported. So a pattern of names vouches for too much. What stands in the list has been seen to be a class that its
module defines. Names of earlier releases stay in the list; whatever is new since its last drawing is unknown.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

LIST = Path(__file__).parent.parent / "bdscan" / "load" / "pickle" / "vouched_classes.json"
PACKAGES = (
    *("torch.nn.modules", "torch.nn.parallel", "torch.nn.utils", "torch.ao.nn", "torch.ao.quantization"),
    *("torch.nn.quantized", "torch.nn.intrinsic", "torch.optim", "torch.distributions"),
    *("torchvision.models", "torchvision.ops", "torchvision.transforms"),
    *("timm.models", "timm.layers", "timm.data.transforms", "timm.data.auto_augment", "timm.data.random_erasing"),
    *("numpy.dtypes", "sklearn.preprocessing", "sklearn.decomposition"),
)
TRACED = (".fx", "_fx", "feature_extraction")  # modules of nets that carry their code as text
MOVED = {  # where the same classes lay in earlier releases
    "timm.layers": "timm.models.layers",
    "torchvision.models.mobilenetv2": "torchvision.models.mobilenet",
    "torch.ao.nn.quantized": "torch.nn.quantized",
    "torch.ao.nn.intrinsic": "torch.nn.intrinsic",
    "torch.ao.quantization": "torch.quantization",
}


def classes() -> dict[str, set[str]]:
    """Module -> the names of the classes that it defines; those whose values are fixed end with `=`."""
    found: dict[str, set[str]] = {}
    for module in (module for package in PACKAGES for module in _modules(package)):
        if any(part in module.__name__ for part in TRACED):
            continue
        for name, value in vars(module).items():
            if inspect.isclass(value) and (value.__module__, value.__qualname__) == (module.__name__, name):
                found.setdefault(module.__name__, set()).add(f"{name}=" if issubclass(value, enum.Enum) else name)
    for module_name, names in tuple(found.items()):
        for here, earlier in MOVED.items():
            if f"{module_name}.".startswith(f"{here}."):
                found.setdefault(earlier + module_name.removeprefix(here), set()).update(names)
    return found


def _modules(package: str) -> Iterator[ModuleType]:
    try:
        top = importlib.import_module(package)
    except ImportError:  # what is not installed keeps what the list says of it
        return
    yield top
    for info in pkgutil.walk_packages(getattr(top, "__path__", ()), f"{package}.", onerror=lambda name: None):
        try:
            yield importlib.import_module(info.name)
        except Exception:  # noqa: BLE001, S112 - parts of a library that this machine cannot import
            continue


def main() -> None:
    """Adds what the installed libraries have to the list."""
    listed = (
        {module: set(names.split()) for module, names in json.loads(LIST.read_text()).items()} if LIST.exists() else {}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module, names in classes().items():
            listed.setdefault(module, set()).update(names)
    lines = {module: " ".join(sorted(names)) for module, names in sorted(listed.items())}
    LIST.write_text(json.dumps(lines, indent=0, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
