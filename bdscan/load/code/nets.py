"""What the source of a net may use of torch and its like, value by value."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from bdscan.load.code import libraries
from bdscan.load.code.modules import Interpreted, blank, check_tree
from bdscan.load.code.plain import PLAIN, is_plain
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.runs import Runs, Softened
from bdscan.load.code.text import Text
from bdscan.load.code.torch_names import ATTRIBUTES, CREATORS, IN_PLACE, LAYERS, METHODS, SIZED
from bdscan.load.code.torch_values import Context, Decorator, Kind, Library, Silent, TorchFunction, TorchMethod
from bdscan.load.code.values import MISSING, Class, Function, Names, Native, Object, Unknown
from bdscan.load.code.vocabulary import Vocabulary, kind_of
from bdscan.load.pickle.effects import quoted

_VOUCHED = frozenset(getattr(nn, name) for name in LAYERS) | {nn.Parameter}
_SETTABLE = frozenset({"stride", "padding", "dilation", "inplace", "p", "eps", "momentum"})  # of a layer, once made
_SILENT = frozenset(  # of a net: what changes nothing about what it answers
    {"apply", "eval", "train", "cuda", "cpu", "to", "float", "half", "double", "requires_grad_", "zero_grad", "type"}
    | {"save_hyperparameters"}
)
_OURS = frozenset({"kind", "runs", "fields", "sites", "whole", "seen"})  # of an `Interpreted`
_SOFT = frozenset({"softmax", "log_softmax"})
_SOFT_LAYERS = {nn.Softmax: "Softmax", nn.LogSoftmax: "LogSoftmax"}
_OPERATORS: tuple[str, ...] = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "neg", "pos", "abs")
_OPERATORS += ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "invert")
_GIVEN = (Tensor, nn.Module, torch.dtype, torch.memory_format, Silent)  # what may be handed to torch as it is
_LENGTHY = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList)


class Neighbours(Protocol):
    """Finds the texts beside a text; MISSING where there is none."""

    def module(self, path: str, level: int, importer: Names) -> object: ...

    def part(self, package: Text, name: str) -> object: ...


class NetVocabulary(Vocabulary):
    """Layers, functions and tensor methods by explicit lists; neighbouring files as texts of the same kind."""

    machine: Runs
    neighbours: Neighbours

    def name(self, name: str) -> object:
        return "its own module" if name == "__name__" else MISSING

    def module(self, path: str, level: int, importer: Names) -> object:
        if not level and path.partition(".")[0] in libraries.ROOTS:
            value = libraries.look_up(path, self.machine)
            return Unknown(quoted(path)) if value is MISSING else value
        found = self.neighbours.module(path, level, importer)
        return Unknown(quoted("." * level + path)) if found is MISSING else found

    def star(self, module: object, name: str) -> object:
        if name.startswith("_"):
            return MISSING
        if isinstance(module, Text):
            return module.find(name)
        return libraries.look_up(f"{module.path}.{name}", self.machine) if isinstance(module, Library) else MISSING

    def attribute(self, value: object, name: str) -> object:
        if isinstance(value, Library) and not name.startswith("__"):
            found = libraries.look_up(f"{value.path}.{name}", self.machine)
            return Unknown(quoted(f"{value.path}.{name}")) if found is MISSING else found
        if isinstance(value, Text):
            found = value.find(name) if name in value else self.neighbours.part(value, name)
            found = value.find(name) if found is MISSING else found
            return Unknown(f"{quoted(name)} of `{value.file}`") if found is MISSING else found
        if isinstance(value, Tensor):
            return self._of_tensor(value, name)
        if isinstance(value, nn.Module):
            return self._of_module(value, name)
        if isinstance(value, Silent) and not name.startswith("_"):
            return value
        if isinstance(value, type) and value in _VOUCHED and name == "forward":
            return Native(name, lambda module, *given: self._above(module, name).run(*given))
        return super().attribute(value, name)

    def _of_tensor(self, value: Tensor, name: str) -> object:
        if name in ATTRIBUTES:
            return self._result(getattr(value, name))
        if name in METHODS or (self.machine.building and name in (*IN_PLACE, "item", "tolist")):
            return TorchMethod(name, value)
        if name in ("grad", "grad_fn"):
            return None
        return super().attribute(value, name)

    def _of_module(self, value: nn.Module, name: str) -> object:
        if name in _MODULE_METHODS and (isinstance(value, Interpreted) or name not in value._modules):
            return Native(name, partial(getattr(self, f"_{name}"), value))
        if name in _SILENT:
            return Native(name, lambda *_, **__: value)
        if name == "training":
            return value.training
        if name == "forward":
            return Native(name, value)
        for table in (value._modules, value._parameters, value._buffers):
            if name in table:
                return table[name]
        plain = vars(value).get(name, MISSING)
        if not name.startswith("_") and name not in _OURS and is_plain(plain):
            return self._result(plain)
        if isinstance(value, _LENGTHY) and name in ("append", "extend", "insert", "values", "items", "keys", "update"):
            return Native(name, partial(self._of_container, value, name))
        if name.startswith("_") or hasattr(nn.Module, name) or not isinstance(value, Interpreted):
            return super().attribute(value, name)
        raise AttributeError(f"an object of {value.kind.name} has no {name}")

    def _of_container(self, container: nn.Module, name: str, *given: object) -> object:
        if name in ("values", "items", "keys"):
            return list(getattr(container, name)())
        self._only_built()
        if name in ("extend", "update") and not isinstance(given[0], dict):
            given = (list(self.machine.iterate(given[0])),)
        self._check(given)
        getattr(container, name)(*given)
        return container

    def _only_built(self) -> None:
        if not self.machine.building:
            raise NotFollowed("its `forward` changes the net")

    def assign(self, value: object, name: str, new: object) -> None:
        if isinstance(value, Interpreted):
            if name == "training":
                raise NotFollowed("it sets `training`")
            value.write(name, new)
        elif isinstance(value, nn.Module) and self.machine.building:
            known = name in value._modules or name in value._parameters
            if not (known and isinstance(new, nn.Module | nn.Parameter | None)) and not (
                name in _SETTABLE and name in vars(value) and is_plain(new)
            ):
                raise NotFollowed(f"it sets {quoted(name)} of a {kind_of(value)}")
            setattr(value, name, new)
        elif not (isinstance(value, Tensor) and name in ("requires_grad", "data") and self.machine.building):
            super().assign(value, name, new)

    def call(self, function: object, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        if isinstance(function, Decorator | Silent):
            return function
        if isinstance(function, TorchFunction):
            self._check((*arguments, *named.values()))
            self._check_sizes(function.name, arguments, named)
            answer = self._result(function.run(*arguments, **self._settings(named)))
            self._note(function.name, arguments, named, answer)
            return answer
        if isinstance(function, TorchMethod):
            return self._call_method(function, arguments, named)
        if isinstance(function, nn.Module):
            return self._call_module(function, arguments, named)
        if isinstance(function, Kind) and function.type is Tensor:
            self._check(arguments)
            return torch.Tensor(*arguments)
        if isinstance(function, type) and self._vouched(function):
            return self._make(function, arguments, named)
        return super().call(function, arguments, named)

    def _vouched(self, kind: type) -> bool:
        return kind in _VOUCHED or (issubclass(kind, nn.Module) and kind.__module__.startswith("torchvision."))

    def _make(self, kind: type, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        self._only_built_unless_plain(kind)
        self._check((*arguments, *named.values()), classes=kind not in _VOUCHED)
        given = list(arguments)
        if issubclass(kind, nn.Sequential) and len(given) == 1 and isinstance(given[0], dict):
            given = [OrderedDict(given[0])]
        if kind is nn.Parameter and given and isinstance(given[0], Tensor):
            given[0] = given[0].detach()
        return kind(*given, **self._settings(named))

    def _only_built_unless_plain(self, kind: type) -> None:
        """A layer without weights may be made on the spot: `nn.ReLU()(x)`."""
        if not self.machine.building and kind.__module__ not in (
            "torch.nn.modules.activation",
            "torch.nn.modules.pooling",
            "torch.nn.modules.flatten",
            "torch.nn.modules.dropout",
        ):
            raise NotFollowed("its `forward` makes new layers")

    def _call_method(self, method: TorchMethod, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        name, tensor = method.name, method.tensor
        if name in ("cuda", "cpu") or (name == "to" and not any(isinstance(one, torch.dtype) for one in arguments)):
            return tensor
        if name in ("type", "retain_grad", "requires_grad_"):
            return tensor
        self._check((*arguments, *named.values()))
        if name in IN_PLACE:
            with torch.no_grad():
                getattr(tensor, name)(*arguments, **self._settings(named))
            return tensor
        self._check_sizes(name, (tensor, *arguments), named)
        answer = self._result(getattr(tensor, name)(*arguments, **self._settings(named)))
        self._note(name, (tensor, *arguments), named, answer)
        return answer

    def _call_module(self, module: nn.Module, arguments: Sequence[object], named: Mapping[str, object]) -> object:
        if isinstance(module, _LENGTHY) and not isinstance(module, nn.Sequential):
            raise TypeError("a list of modules is not called")
        if not isinstance(module, Interpreted):
            self._check((*arguments, *named.values()))
        if self.machine.building:
            check_tree(module)
            arguments = [one.to("meta") if isinstance(one, Tensor) and _on_meta(module) else one for one in arguments]
        answer = self._result(module(*arguments, **named))
        if type(module) in _SOFT_LAYERS and arguments:
            self._softened(_SOFT_LAYERS[type(module)], getattr(module, "dim", None), arguments[0], answer)
        return answer

    def _note(self, name: str, arguments: Sequence[object], named: Mapping[str, object], answer: object) -> None:
        if name in _SOFT and arguments:
            dim = named.get("dim", arguments[1] if len(arguments) > 1 else None)
            self._softened(name, dim, arguments[0], answer)
        elif name in CREATORS:
            self.machine.budget.own(answer)

    def _softened(self, name: str, dim: object, logits: object, answer: object) -> None:
        if isinstance(logits, Tensor) and isinstance(answer, Tensor) and answer.dim() == 2 and dim in (1, -1, None):
            self.machine.softened = Softened(name, logits, answer)

    def _check(self, values: Iterable[object], *, classes: bool = False) -> None:
        """Nothing is handed to torch that it could call."""
        stack = list(values)
        while stack:
            value = stack.pop()
            self.machine.budget.step()
            if type(value) in (list, tuple):
                stack += value  # type: ignore[arg-type]
            elif type(value) is dict:
                stack += value.values()
            elif isinstance(value, Unknown):
                raise value.refuse()
            elif not (type(value) in PLAIN or isinstance(value, _GIVEN)) and not (
                classes and isinstance(value, type) and self._vouched(value)
            ):
                raise NotFollowed(f"handing a {kind_of(value)} to torch is not something bdscan follows")

    def _check_sizes(self, name: str, arguments: Sequence[object], named: Mapping[str, object]) -> None:
        """Sizes are numbers: a tensor's value would be the images' to choose."""
        if self.machine.building or (name not in SIZED and not (name == "where" and len(arguments) == 1)):
            return
        rest = arguments[1:] if arguments and isinstance(arguments[0], Tensor) and arguments[0].dim() else arguments
        stack: list[object] = [*rest, *named.values()]
        while stack:
            value = stack.pop()
            if isinstance(value, list | tuple):
                stack += value
            elif isinstance(value, Tensor):
                raise NotFollowed(
                    f"a size of {quoted(name)} that depends on the images is not something bdscan follows"
                )

    def _settings(self, named: Mapping[str, object]) -> Mapping[str, object]:
        """Without the device, which is not the text's to choose, and without a result to write into."""
        if "out" in named:
            raise NotFollowed("`out=` is not something bdscan follows")
        return {name: value for name, value in named.items() if name != "device"}

    def _result(self, value: object) -> object:
        if isinstance(value, tuple):
            return tuple(self._result(part) for part in value)
        return self.machine.budget.made([self._result(part) for part in value]) if isinstance(value, list) else value

    def item(self, value: object, key: object) -> object:
        if isinstance(value, Silent | Kind):
            return value
        if isinstance(value, Tensor):
            self._check_index(key)
            return value[key]  # type: ignore[index]
        if isinstance(value, nn.Sequential | nn.ModuleList) and isinstance(key, int | slice):
            children = list(self._shown(value).values())
            if isinstance(key, slice):
                self._only_built()
                kept = children[key]
                return nn.Sequential(*kept) if isinstance(value, nn.Sequential) else nn.ModuleList(kept)
            return children[key]
        if isinstance(value, nn.ModuleDict | nn.ParameterDict) and isinstance(key, str):
            return value[key]
        if isinstance(value, nn.ParameterList) and isinstance(key, int):
            return value[key]
        return super().item(value, key)

    def _check_index(self, key: object) -> None:
        """No tensor of truths: how much it picks would depend on the images."""
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, slice):
                numbers: Sequence[object] = (part.start, part.stop, part.step)
            else:
                numbers = part if isinstance(part, list) else ()
            whole = isinstance(part, Tensor) and part.dtype in (torch.int64, torch.int32)
            plain = isinstance(part, int | slice | list | None | type(...))
            if not (whole or plain) or not all(type(one) in (int, type(None)) for one in numbers):
                raise NotFollowed("such an index of a tensor is not something bdscan follows")

    def set_item(self, value: object, key: object, new: object) -> None:
        if isinstance(value, nn.ModuleDict) and self.machine.building and isinstance(new, nn.Module):
            value[str(key)] = new
        elif isinstance(value, nn.Sequential | nn.ModuleList) and self.machine.building and isinstance(new, nn.Module):
            value[key] = new  # type: ignore[index]
        elif isinstance(value, Tensor):
            if not self.machine.building:
                self.machine.budget.may_change(value)
            self._check_index(key)
            self._check([new])
            with torch.no_grad() if self.machine.building else nullcontext():
                value[key] = new  # type: ignore[index, assignment]
        else:
            super().set_item(value, key, new)

    def operate(self, name: str, *values: object) -> object:
        if name == "contains" and isinstance(values[0], nn.ModuleDict):
            return values[1] in list(values[0].keys())
        if name in ("eq", "ne") and not any(isinstance(value, Tensor) for value in values):
            return (values[0] is values[1]) == (name == "eq")
        sums = isinstance(values[0], Tensor) or isinstance(values[-1], Tensor)
        if (
            name in _OPERATORS
            and sums
            and all(type(value) in (bool, int, float) or isinstance(value, Tensor) for value in values)
        ):
            return getattr(operator, name)(*values)
        return super().operate(name, *values)

    def truth(self, value: object) -> bool:
        if isinstance(value, Tensor):
            return bool(self.number(bool, value))
        return (
            bool(value) if isinstance(value, _LENGTHY) else isinstance(value, object) and not isinstance(value, Tensor)
        )

    def number(self, kind: type, value: object) -> object:
        """While a net is built, tensors are tables; while it answers, they are images, and all calls are alike."""
        if isinstance(value, Tensor) and self.machine.building and not value.is_meta:
            return kind(value.item())
        return super().number(kind, value)

    def iterate(self, value: object) -> Iterable[object]:
        if isinstance(value, Tensor):
            return value.unbind(0)
        if isinstance(value, nn.ModuleDict):
            return list(value.keys())
        if isinstance(value, nn.Sequential | nn.ModuleList):
            return list(self._shown(value).values())
        return list(value) if isinstance(value, nn.ParameterList) else super().iterate(value)

    def length(self, value: object) -> int:
        if isinstance(value, Tensor | _LENGTHY):
            return len(value)
        return super().length(value)

    def is_a(self, value: object, kind: object) -> bool:
        if isinstance(kind, Silent):
            raise NotFollowed("whether a value is of an annotation's type is not something bdscan follows")
        if isinstance(kind, Kind):
            return isinstance(value, kind.type)
        if isinstance(kind, type) and self._vouched(kind):
            return isinstance(value, kind)
        return super().is_a(value, kind)

    def create(self, kind: Class) -> Object:
        self._only_built()
        return blank(kind, self.machine)

    def inherited(self, receiver: object, kind: Class, name: str) -> object:
        if name == "__init__":
            if receiver is None:  # `nn.Module.__init__(self)`, by way of a class of the text
                return Native(name, lambda module, /, *given, **named: self._initialise(module, *given, **named))
            return Native(name, partial(self._initialise, receiver))
        if isinstance(receiver, Interpreted) and name == "forward":
            return self._above(receiver, name)
        if isinstance(receiver, nn.Module):
            return self.attribute(receiver, name)
        return super().inherited(receiver, kind, name)

    def _above(self, module: object, name: str) -> Native:
        if not isinstance(module, Interpreted):
            raise NotFollowed("a layer's `forward` is handed something else")
        return Native(name, lambda *given: super(Interpreted, module).forward(*given))

    def _initialise(self, module: object, *given: object, **named: object) -> None:
        self._only_built()
        if not isinstance(module, Interpreted):
            raise NotFollowed("an `__init__` is handed what is not its own")
        root = next((root for root in module.kind.roots if root is not nn.Module), nn.Module)
        if root is nn.Module:
            return
        self._check((*given, *named.values()))
        arguments = [OrderedDict(given[0])] if len(given) == 1 and isinstance(given[0], dict) else given
        root.__init__(module, *arguments, **self._settings(named))  # type: ignore[misc]

    def decorate(self, decorator: object, decorated: Function | Class) -> object:
        return decorated if isinstance(decorator, Decorator) else super().decorate(decorator, decorated)

    def within(self, context: object) -> object:
        return None if isinstance(context, Context | Decorator) else super().within(context)

    # What a text may call of any module.

    def _shown(self, module: nn.Module) -> Mapping[str, nn.Module]:
        if isinstance(module, Interpreted):
            return module.visible()
        return {name: child for name, child in module._modules.items() if child is not None}

    def _add_module(self, module: nn.Module, name: object, child: object) -> None:
        self._only_built()
        if not isinstance(child, nn.Module | None) or not isinstance(name, str):
            raise TypeError("only modules are added")
        module.add_module(name, child)

    _register_module = _add_module

    def _register_buffer(self, module: nn.Module, name: object, tensor: object, persistent: object = True) -> None:
        self._only_built()
        if not isinstance(tensor, Tensor | None) or not isinstance(name, str):
            raise TypeError("only tensors are buffers")
        module.register_buffer(name, tensor, persistent=bool(persistent))

    def _register_parameter(self, module: nn.Module, name: object, param: object) -> None:
        self._only_built()
        if not isinstance(param, nn.Parameter | None) or not isinstance(name, str):
            raise TypeError("only parameters are registered")
        module.register_parameter(name, param)

    def _children(self, module: nn.Module) -> object:
        return self.machine.budget.made(list(self._shown(module).values()))

    def _named_children(self, module: nn.Module) -> object:
        return self.machine.budget.made(list(self._shown(module).items()))

    def _named_modules(self, module: nn.Module) -> object:
        check_tree(module)
        hidden = {
            id(part._modules[site]) for part in module.modules() if isinstance(part, Interpreted) for site in part.sites
        }
        return self.machine.budget.made([pair for pair in module.named_modules() if id(pair[1]) not in hidden])

    def _modules(self, module: nn.Module) -> object:
        pairs = self._named_modules(module)
        return self.machine.budget.made([part for _, part in pairs])  # type: ignore[attr-defined]

    def _parameters(self, module: nn.Module) -> object:
        check_tree(module)
        return self.machine.budget.made(list(module.parameters()))

    def _named_parameters(self, module: nn.Module) -> object:
        check_tree(module)
        return self.machine.budget.made(list(module.named_parameters()))


_MODULE_METHODS = frozenset(
    {"add_module", "register_module", "register_buffer", "register_parameter", "children", "named_children"}
    | {"modules", "named_modules", "parameters", "named_parameters"}
)


def _ends(part: slice) -> tuple[object, object, object]:
    return part.start, part.stop, part.step


def _on_meta(module: nn.Module) -> bool:
    return any(part.is_meta for part in module.parameters())
