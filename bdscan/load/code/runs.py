"""How a net whose `forward` is followed answers: every call within bounds, and like every other."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bdscan.load.arch.bounded import Bounded, largest_tensor
from bdscan.load.code.budget import Budget
from bdscan.load.code.interpreter import Interpreter
from bdscan.load.code.modules import Interpreted
from bdscan.load.code.plain import is_plain
from bdscan.load.code.refusal import NotFollowed
from bdscan.load.code.torch_names import NO_SETTING, SITES
from bdscan.load.code.torch_values import Silent, TorchFunction, TorchMethod
from bdscan.load.code.values import Bindings, Function, Scope
from bdscan.load.code.vocabulary import Vocabulary

_STEPS = 100_000  # in one call of a net; torchvision's take up to 7 000
_MOST_IN_PROPORTION = 64  # times the largest tensor that an image can need: all tensors that it meets on its way
_MAX_GROWTH = 4  # times what the first images took, in proportion to their size
_ALWAYS_ALLOWED = 1 << 24  # numbers in all tensors of a call, however small the images
_NO_EFFECT = frozenset({"_log_api_usage_once"})  # torchvision's, in sources that were copied from it
_MAX_SITES = 500  # calls of activations in one module


@dataclass(eq=False)
class _Frame:
    """A module whose `forward` is being followed, and how often each function was called there."""

    module: Interpreted
    calls: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class Softened:
    """A softmax over the classes, and what went into it."""

    name: str
    logits: Tensor
    answer: Tensor


class Runs(Interpreter):
    """The interpreter of one net and its copies."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.building = False
        self.stack: list[_Frame] = []
        self.scratch: MutableMapping[int, Bindings] = {}  # what objects note during one call, by their identity
        self.softened: Softened | None = None
        self.left_out = ""  # the softmax at the net's end, once it has been met

    @property
    def in_call(self) -> bool:
        """Whether a net is answering, not being built."""
        return bool(self.stack)

    @contextmanager
    def build(self, budget: Budget) -> Iterator[None]:
        """While the block lasts, nets are built: tensors may be changed, and nothing is asked of images."""
        self.building = True
        try:
            with self.running(budget):
                yield
        finally:
            self.building = False

    def forward(
        self, module: Interpreted, function: Function, arguments: Sequence[object], named: Mapping[str, object]
    ) -> object:
        if self.building:
            return self.call(function, module, *arguments, **named)
        if self.stack:
            return self._within(module, function, arguments, named)
        try:
            with self.running(Budget(_STEPS)), self._bounded(module, arguments):
                answer = self._within(module, function, arguments, named)
            softened = self.softened
            if module.whole and softened is not None and answer is softened.answer:
                self.left_out = softened.name
                return softened.logits
            return answer
        finally:
            self.softened = None
            self.scratch.clear()

    def imported(self, module: object, name: str) -> object:
        return Silent() if name in _NO_EFFECT else super().imported(module, name)

    def _within(
        self, module: Interpreted, function: Function, arguments: Sequence[object], named: Mapping[str, object]
    ) -> object:
        self.stack.append(_Frame(module))
        try:
            return self.call(function, module, *arguments, **named)
        finally:
            self.stack.pop()

    @contextmanager
    def _bounded(self, module: Interpreted, arguments: Sequence[object]) -> Iterator[None]:
        """Images of a new shape are sized first; what is done depends on nothing but the shape."""
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        key = (*((part.shape, part.dtype) for part in tensors), module.training, torch.is_grad_enabled())
        if key in module.seen:
            yield
            return
        numbers = max(1, sum(part.numel() for part in tensors))
        shape = tensors[0].shape if tensors else torch.Size([1])
        largest = largest_tensor(shape[1:], shape[0] if shape else 1)
        known = max(module.seen.values(), default=math.inf)
        room = max(_ALWAYS_ALLOWED, min(_MOST_IN_PROPORTION * largest, _MAX_GROWTH * known * numbers))
        with Bounded(largest, altogether=room) as bounded:
            yield
        module.seen[key] = (room - bounded.altogether) / numbers

    def call_at(
        self, node: ast.Call, scope: Scope, function: object, arguments: list[object], named: Bindings
    ) -> object:
        """A function that stands for a layer is called as a layer, so that it can be looked at like one."""
        if self.stack and isinstance(function, TorchFunction | TorchMethod) and function.name in SITES:
            given = [function.tensor, *arguments] if isinstance(function, TorchMethod) else arguments
            layer = self._site(node, function.name, given, named)
            if layer is not None:
                return layer(given[0])
        return self.call(function, *arguments, **named)

    def _site(
        self, node: ast.Call, name: str, arguments: Sequence[object], named: Mapping[str, object]
    ) -> nn.Module | None:
        frame = self.stack[-1]
        module = frame.module
        if module.kind.roots != [nn.Module] or len(arguments) < 1 or not isinstance(arguments[0], Tensor):
            return None
        layer, names = SITES[name]
        settings = dict(zip(names, arguments[1:], strict=False))
        settings |= {key: value for key, value in named.items() if key not in NO_SETTING}
        if not settings.keys() <= set(names) or not all(map(is_plain, settings.values())):
            return None
        frame.calls[f"{name}:{node.lineno}"] += 1
        count = frame.calls[f"{name}:{node.lineno}"]
        child = f"{name}:{node.lineno}" + (f"_{count}" if count > 1 else "")
        return _child(module, child, layer, settings)

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        call = node.value
        if self.stack and isinstance(call, ast.Call) and any(keyword.arg == "inplace" for keyword in call.keywords):
            raise NotFollowed("a function that works in place and gives nothing is not something bdscan follows")
        super()._expression(node, scope)


def _child(module: Interpreted, child: str, layer: type[nn.Module], settings: Mapping[str, object]) -> nn.Module | None:
    known = module._modules.get(child) if child in module.sites else None
    if known is not None and getattr(known, "settings", None) in (None, settings):
        return known  # None: something that was put in its place since
    if (child in module._modules and child not in module.sites) or len(module.sites) > _MAX_SITES:
        return None
    made = layer(**settings)
    made.settings = settings  # type: ignore[assignment]
    module.sites.add(child)
    module.add_module(child, made.train(module.training))
    return made
