"""A plan as a torch net whose layers go by the names that the file has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bdscan.load.nets.candidate import BATCH_COUNTER
from bdscan.load.search.parts import Kind, Part
from bdscan.load.search.plan import Op, Plan

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky relu 0.01": nn.LeakyReLU,
    "leaky relu 0.1": lambda: nn.LeakyReLU(0.1),
    "leaky relu 0.2": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
}


class InferredNet(nn.Module):
    """Runs the operations of a plan; each is a child, those with tensors at the place that their names say."""

    def __init__(self, plan: Plan, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.steps = _placed(self, plan, parts)

    def forward(self, pixels: Tensor) -> Tensor:
        return _run(self, self.steps, pixels)


@dataclass(frozen=True)
class Step:
    """A child by its name; or a sum, whose bodies are steps."""

    child: str
    body: tuple[Step, ...] = ()
    shortcut: tuple[Step, ...] = ()


def _run(net: nn.Module, steps: tuple[Step, ...], maps: Tensor) -> Tensor:
    for step in steps:
        if step.child:
            maps = net.get_submodule(step.child)(maps)
        else:
            maps = _run(net, step.body, maps) + _run(net, step.shortcut, maps)
    return maps


def _placed(net: nn.Module, plan: Plan, parts: Mapping[str, Part]) -> tuple[Step, ...]:
    steps = []
    for op in plan:
        if op.kind == "sum":
            steps.append(Step("", _placed(net, op.body, parts), _placed(net, op.shortcut, parts)))
            continue
        name = op.part or _free_name(net, op)
        if op.part not in dict(net.named_modules()) or not op.part:
            _add(net, name, module_of(op, parts))
        steps.append(Step(name))
    return tuple(steps)


def _free_name(net: nn.Module, op: Op) -> str:
    kind = str(op.arguments[0]).partition(" ")[0] if op.kind == "act" else op.kind
    i = 1
    while hasattr(net, f"{kind}_{i}"):
        i += 1
    return f"{kind}_{i}"


def _add(net: nn.Module, name: str, module: nn.Module) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        if parent not in net._modules:
            net.add_module(parent, nn.Module())
        net = net.get_submodule(parent)
    held = net._modules.get(leaf)
    if held is not None:  # a layer that holds others as well
        for child, inner in held.named_children():
            module.add_module(child, inner)
        del net._modules[leaf]
    net.add_module(leaf, module)


def module_of(op: Op, parts: Mapping[str, Part]) -> nn.Module:
    """The layer that does it."""
    if op.part:
        return _with_tensors(op, parts[op.part])
    if op.kind == "act":
        return ACTIVATIONS[str(op.arguments[0])]()
    if op.kind == "flatten":
        return nn.Flatten()
    if op.kind == "adaptive":
        kind, side = op.arguments
        return nn.AdaptiveAvgPool2d(int(side)) if kind == "avg" else nn.AdaptiveMaxPool2d(int(side))
    kind, kernel, stride, padding = op.arguments
    window = (int(kernel), int(stride), int(padding))
    return nn.AvgPool2d(*window) if kind == "avg" else nn.MaxPool2d(*window)


def _with_tensors(op: Op, part: Part) -> nn.Module:
    if part.kind is Kind.LINEAR:
        return nn.Linear(part.shape[1], part.given, part.bias)
    if part.kind is Kind.PRELU:
        return nn.PReLU(part.given)
    if part.kind is Kind.NORM:
        return _norm(op, part)
    stride, *padding, groups = map(int, op.arguments)
    return nn.Conv2d(
        part.shape[1] * groups, part.given, part.kernel, stride, (padding[0], padding[1]), groups=groups, bias=part.bias
    )


def _norm(op: Op, part: Part) -> nn.Module:
    if part.running:
        return (nn.BatchNorm2d if op.arguments[0] == "maps" else nn.BatchNorm1d)(part.given, affine=part.affine)
    if len(part.shape) > 1 or op.arguments[0] == "row":
        return nn.LayerNorm(part.shape)
    return nn.GroupNorm(int(op.arguments[1]), part.given)


def with_tensors(op: Op, parts: Mapping[str, Part], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The layer with the file's tensors in it."""
    module = module_of(op, parts)
    if op.part:
        held = {name: tensors[f"{op.part}.{name}"] for name in module.state_dict() if not name.endswith(BATCH_COUNTER)}
        module.load_state_dict({name: tensor.float() for name, tensor in held.items()}, strict=False, assign=True)
    return module.eval().requires_grad_(False)
