"""The libraries that a net's source may import, name by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdscan.load.arch import from_torchvision
from bdscan.load.code.modules import check_tree
from bdscan.load.code.plain import is_plain, within_bounds
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.torch_names import DTYPES, FUNCTIONS, INITIALISERS, LAYERS, TORCH, names
from bdscan.load.code.torch_values import Context, Decorator, Kind, Library, Silent, TorchFunction
from bdscan.load.code.values import MISSING, Instance, Native
from bdscan.load.pickle.effects import quoted

if TYPE_CHECKING:
    from bdscan.load.code.interpreter import Interpreter

_PATHS = names(
    """
    torch torch.nn torch.nn.functional torch.nn.init torch.nn.modules torch.nn.parameter torch.jit torch.cuda
    torch.autograd torch.fx torch.cuda.amp torch.utils torch.utils.checkpoint
    pytorch_lightning lightning lightning.pytorch torchvision torchvision.models
    torchvision.models.resnet math numpy collections functools operator typing typing_extensions copy warnings
    logging dataclasses abc __future__ itertools collections.abc torchvision.ops
    """
)
ROOTS = frozenset(path.partition(".")[0] for path in _PATHS)
_MATH = names(
    """
    sqrt ceil floor log log2 log10 exp sin cos tan tanh fabs gcd isclose hypot trunc erf radians
    """
)
_NUMPY = names(
    """
    sqrt ceil floor log log2 log10 exp sin cos tan tanh
    """
)
_RESNETS = ("ResNet", "BasicBlock", "Bottleneck")  # of torchvision, for nets put together out of them


def look_up(path: str, machine: Interpreter) -> object:
    """What a dotted name of a library means; MISSING where nobody vouches for it."""
    if path.startswith("torch.nn.modules."):  # where torch keeps its layers, file by file
        path = "torch.nn." + path.rpartition(".")[2] if path.rpartition(".")[2][:1].isupper() else "torch.nn.modules"
    if path in _PATHS:
        return Library(path)
    library, _, name = path.rpartition(".")
    find = _LIBRARIES.get(library)
    return MISSING if find is None else find(name, machine)


def _torch(name: str, machine: Interpreter) -> object:
    if name in TORCH:
        return TorchFunction(name, getattr(torch, name))
    if name in DTYPES:
        return getattr(torch, name)
    return _TORCH.get(name, MISSING)


_TORCH: Mapping[str, object] = {
    **{"Tensor": Kind(Tensor), "FloatTensor": Kind(Tensor), "pi": math.pi, "inf": math.inf, "nan": math.nan},
    **dict.fromkeys(("no_grad", "enable_grad", "inference_mode", "set_grad_enabled"), Decorator()),
    **{"device": Native("device", lambda *_, **__: "cpu"), "Size": Native("Size", lambda sides: tuple(sides))},
    **{name: Native(name, lambda *_, **__: None) for name in ("manual_seed", "_assert", "set_default_dtype")},
    **{"is_grad_enabled": Native("is_grad_enabled", lambda: False)},
    **{"jit": Library("torch.jit"), "contiguous_format": torch.contiguous_format},
}


def _nn(name: str, machine: Interpreter) -> object:
    if name in LAYERS:
        return getattr(nn, name)
    return nn.Parameter if name == "Parameter" else MISSING


def _functional(name: str, machine: Interpreter) -> object:
    return TorchFunction(name, getattr(functional, name)) if name in FUNCTIONS else MISSING


def _initialiser(name: str, machine: Interpreter) -> object:
    if name == "calculate_gain":
        return Native(name, lambda *_, **__: 1.0)
    return Native(name, lambda *given, **named: given[0] if given else None) if name in INITIALISERS else MISSING


def _jit(name: str, machine: Interpreter) -> object:
    if name in ("is_scripting", "is_tracing"):
        return Native(name, lambda: False)
    if name in ("annotate", "cast"):
        return Native(name, lambda _, value: value)
    known = ("script", "ignore", "unused", "export", "script_method", "interface", "_overload_method", "Final")
    return Decorator() if name in known else MISSING


def _cuda(name: str, machine: Interpreter) -> object:
    known = {"is_available": False, "device_count": 0}
    return Native(name, lambda: known[name]) if name in known else MISSING


def _math(name: str, machine: Interpreter) -> object:
    if name in ("pi", "e", "inf", "nan", "tau"):
        return getattr(math, name)
    if name == "prod":
        return Native(name, partial(_product, machine))
    if name == "pow":
        return Native(name, lambda one, other: machine.operate("pow", machine.operate("mul", one, 1.0), other))
    return Native(name, partial(_of_numbers, getattr(math, name))) if name in _MATH else MISSING


def _numpy(name: str, machine: Interpreter) -> object:
    if name in ("prod", "product"):
        return Native(name, partial(_product, machine))
    if name in ("pi", "inf"):
        return getattr(math, name)
    if name in ("ceil", "floor"):
        return Native(name, lambda value: float(_of_numbers(getattr(math, name), value)))  # type: ignore[arg-type]
    if name in ("int", "int64", "int32", "float", "float32", "float64"):
        return machine.builtins[name.rstrip("0123456789")]
    if name in ("sum", "max", "min", "abs", "round"):
        return machine.builtins[name]
    return Native(name, partial(_of_numbers, getattr(math, name))) if name in _NUMPY else MISSING


def _product(machine: Interpreter, values: object, start: object = 1) -> object:
    return reduce(lambda product, value: machine.operate("mul", product, value), machine.iterate(values), start)


def _of_numbers(function: Callable[..., object], *values: object) -> object:
    if not all(isinstance(value, int | float) for value in values):
        raise NotFollowed("a function of numbers is given something else")
    return within_bounds(function(*values))


def _functools(name: str, machine: Interpreter) -> object:
    if name == "partial":
        return Native(name, partial(_partial, machine))
    if name == "reduce":
        return Native(name, partial(_reduced, machine))
    return MISSING


def _partial(machine: Interpreter, function: object, /, *given: object, **named: object) -> Native:
    return Native("partial", lambda *more, **others: machine.call(function, *given, *more, **{**named, **others}))


def _reduced(machine: Interpreter, function: object, values: object, *start: object) -> object:
    entries = [*start, *machine.iterate(values)]
    return reduce(lambda one, other: machine.call(function, one, other), entries)


def _operator(name: str, machine: Interpreter) -> object:
    return (
        Native(name, partial(machine.operate, name))
        if name in ("mul", "add", "sub", "truediv", "floordiv")
        else MISSING
    )


def _collections(name: str, machine: Interpreter) -> object:
    return machine.builtins["dict"] if name == "OrderedDict" else MISSING


def _itertools(name: str, machine: Interpreter) -> object:
    if name == "chain":
        return Native(name, lambda *several: [entry for one in several for entry in machine.iterate(one)])
    return MISSING


def _typing(name: str, machine: Interpreter) -> object:
    if name in ("Sequence", "Iterable", "Collection"):
        return Kind((list, tuple))
    return Native(name, lambda _, value: value) if name == "cast" else Silent()


def _dataclasses(name: str, machine: Interpreter) -> object:
    return Decorator() if name == "dataclass" else MISSING


def _copy(name: str, machine: Interpreter) -> object:
    return Native(name, partial(_copied, machine)) if name in ("copy", "deepcopy") else MISSING


def _copied(machine: Interpreter, value: object, /) -> object:
    """Of a module, as it stands, or of an object with plain settings; what is more than flat is not copied."""
    if isinstance(value, Instance):
        made = Instance(value.kind)
        made.attributes.update(value.attributes)
        machine.budget.own(made)
        return made
    if isinstance(value, nn.Module):
        check_tree(value)
        return copy.deepcopy(value)
    if isinstance(value, int | float | str | None):
        return value
    raise NotFollowed("copying this is not something bdscan follows")


def _silent(name: str, machine: Interpreter) -> object:
    return Silent()


def _torchvision(name: str, machine: Interpreter) -> object:
    """A net by its function, never with the weights that come with it; or a class to put nets together."""
    library = from_torchvision.models()
    if name in _RESNETS:
        return getattr(library.resnet, name)
    if name.endswith("_Weights"):
        return Silent()
    if name in library.list_models(module=library):
        return Native(name, partial(_torchvision_net, name))
    return MISSING


def _torchvision_ops(name: str, machine: Interpreter) -> object:
    from torchvision import ops

    return getattr(ops, name) if name in ("StochasticDepth", "Permute") else MISSING


def _torchvision_net(name: str, pretrained: object = False, /, **named: object) -> nn.Module:
    settings = {key: value for key, value in named.items() if key not in ("pretrained", "weights", "progress")}
    settings.pop("weights_backbone", None)
    if not all(is_plain(value) for value in settings.values()):
        raise NotFollowed(f"{quoted(name)} of torchvision with such settings")
    if name in ("googlenet", "inception_v3"):
        settings.setdefault("init_weights", False)
    net: nn.Module = from_torchvision.models().get_model(name, weights=None, **settings)
    return net


def _lightning(name: str, machine: Interpreter) -> object:
    """A Lightning module is a module with a training loop, which is not followed."""
    return nn.Module if name == "LightningModule" else MISSING


_LIBRARIES: Mapping[str, Callable[[str, Interpreter], object]] = {
    "torch": _torch,
    "torch.nn": _nn,
    "torch.nn.modules": _nn,
    "torch.nn.parameter": _nn,
    "torch.nn.functional": _functional,
    "torch.nn.init": _initialiser,
    "torch.jit": _jit,
    "torch.cuda": _cuda,
    "torch.cuda.amp": lambda name, machine: Native(name, lambda *_, **__: Context()) if name == "autocast" else MISSING,
    "torch.autograd": lambda name, machine: Native(name, lambda value, **_: value) if name == "Variable" else MISSING,
    "torch.fx": lambda name, machine: Native(name, lambda value: value) if name == "wrap" else MISSING,
    "torchvision.ops": _torchvision_ops,
    "torchvision.models": _torchvision,
    "torchvision.models.resnet": _torchvision,
    **dict.fromkeys(("pytorch_lightning", "lightning", "lightning.pytorch"), _lightning),
    "math": _math,
    "numpy": _numpy,
    "functools": _functools,
    "operator": _operator,
    "collections": _collections,
    "collections.abc": _typing,
    "itertools": _itertools,
    "typing": _typing,
    "typing_extensions": _typing,
    "dataclasses": _dataclasses,
    "copy": _copy,
    "warnings": _silent,
    "logging": _silent,
    "abc": lambda name, machine: Decorator() if name == "abstractmethod" else MISSING,
    "__future__": _silent,
}
