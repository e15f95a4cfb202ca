"""The orders in which the parts of a module may run where its own code decides: those its layers speak for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from bdscan.load.module.tree import InOrder, Unit

_WEIGHTED = ("Conv2d", "Linear")
_NORMS = ("BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm", "LocalResponseNorm")
_WINDOWS = ("AvgPool2d", "MaxPool2d")
_ADAPTIVE = ("AdaptiveAvgPool2d", "AdaptiveMaxPool2d")
_ENDS = ("Softmax", "LogSoftmax")
_ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish", "PReLU", "ReLU", "ReLU6"),
    *("SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh"),
)
# What does nothing when the net answers, or what the shapes say better where it belongs.
_SILENT = (*_ENDS, "AlphaDropout", "Dropout", "Dropout2d", "FeatureAlphaDropout", "Flatten", "Identity")
_AS_REGISTERED = "the order of registration"

Make = Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Step:
    """A part of the file, or a layer without tensors that stands for what its code does."""

    name: str
    kinds: tuple[str, ...]
    make: Make

    def has(self, kinds: Sequence[str]) -> bool:
        return any(kind in kinds for kind in self.kinds)

    def alone(self, kinds: Sequence[str]) -> bool:
        return len(self.kinds) == 1 and self.has(kinds)


@dataclass(frozen=True, eq=False)
class Plan:
    """One order, and what it takes for granted."""

    steps: tuple[Step, ...]
    assumed: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)

    def build(self) -> nn.Module:
        net, taken = InOrder(), [step.name for step in self.steps]
        for i, step in enumerate(self.steps):
            again = step.name in taken[:i] or step.name.startswith(_MADE_HERE)
            net._put(f"{step.name.replace('.', '_')}_{i}" if again else step.name, step.make())
        return net


_MADE_HERE = "then_"
_FLAT = Step(f"{_MADE_HERE}flatten", ("Flatten",), nn.Flatten)


def as_they_stand(parts: Sequence[Unit]) -> Plan:
    """What makes probabilities of the logits at the end is left out; a net that takes images in a row is given them."""
    steps = [_step(part) for part in parts]
    kinds = [kind for step in steps for kind in step.kinds]
    takes_row = "Linear" in kinds and not {"Conv2d", "Flatten"} & set(kinds[: kinds.index("Linear")])
    return Plan((*[_FLAT] * takes_row, *(steps[:-1] if steps and steps[-1].alone(_ENDS) else steps)))


def plans(parts: Sequence[Unit]) -> Iterator[Plan]:
    """The likeliest first, each once."""
    steps = _norms_behind(step for step in map(_step, parts) if not step.alone(_SILENT))
    seen = set[tuple[str, ...]]()
    for activation, pool in itertools.product(_activations(steps), _pools(steps)):
        plan = Plan(tuple(_written(steps, activation, pool)), f"{activation.said}, {pool.said}")
        if plan.key not in seen:
            seen.add(plan.key)
            yield plan


def _step(part: Unit) -> Step:
    return Step(part.name, part.kinds, part.build)


def _norms_behind(given: Iterator[Step]) -> list[Step]:
    """Norms that were registered as a group of their own, each behind the convolution with its number."""
    steps = list(given)
    norms, convs = ([step for step in steps if step.alone(kinds)] for kinds in (_NORMS, ("Conv2d",)))
    apart = any(steps[i].alone(_NORMS) and steps[i - 1].alone(_NORMS) for i in range(1, len(steps)))
    if not apart or len(norms) != len(convs):
        return steps
    behind = {conv.name: norm for conv, norm in zip(convs, norms, strict=True)}
    return [each for step in steps if step not in norms for each in (step, behind.get(step.name)) if each is not None]


@dataclass(frozen=True, eq=False)
class _Habit:
    """A layer that its code may run again and again, and where: behind which of the convolutions or of all layers."""

    said: str
    step: Step | None = None  # None: only where it was registered
    moved: tuple[str, ...] = ()  # registered ones that it stands for
    every: int = 1  # so many convolutions; 0: only the last


def _activations(steps: Sequence[Step]) -> Iterator[_Habit]:
    alone = [step for step in steps if step.alone(_ACTIVATIONS)]
    if not _open(steps):
        yield _Habit(_AS_REGISTERED)
        return
    yield from _shared(alone, "behind every layer")
    relu = _Habit("a ReLU behind every layer that has no activation", Step(f"{_MADE_HERE}relu", ("ReLU",), nn.ReLU))
    yield from (_Habit(_AS_REGISTERED), relu) if alone else (relu, _Habit(_AS_REGISTERED))


def _pools(steps: Sequence[Step]) -> Iterator[_Habit]:
    alone = [step for step in steps if step.alone(_WINDOWS)]
    yield _Habit("pools where they were registered" if alone else "no other pools")
    if alone:
        yield from _shared(alone, "behind every convolution")
    elif not any(step.has(_WINDOWS) for step in steps):
        halved = Step(f"{_MADE_HERE}pool", ("MaxPool2d",), lambda: nn.MaxPool2d(2))
        for every, where in ((1, "every convolution"), (2, "every other convolution"), (0, "the last convolution")):
            yield _Habit(f"maxima of 2x2 behind {where}", halved, every=every)


def _shared(alone: Sequence[Step], where: str) -> Iterator[_Habit]:
    """One that was registered, for all; several, if they are alike."""
    made = [step.make() for step in alone]
    alike = len({repr(module) for module in made}) == 1 and not any(list(module.parameters()) for module in made)
    if alike:
        yield _Habit(f"`{alone[0].name}` {where}", alone[0], tuple(step.name for step in alone))


def _open(steps: Sequence[Step]) -> bool:
    """Whether between two layers with weights there is no activation."""
    waiting = False
    for step in steps:
        if step.has(_WEIGHTED):
            if waiting and step.kinds[0] not in _ACTIVATIONS:
                return True
            waiting = True
        if step.has(_ACTIVATIONS):
            waiting = False
    return False


def _written(steps: Sequence[Step], activation: _Habit, pool: _Habit) -> Iterator[Step]:
    """The steps with the habits at their places, adaptive pools and a flattening before the first linear layer."""
    moved = {*activation.moved, *pool.moved, *(step.name for step in steps if step.alone(_ADAPTIVE))}
    kept = [step for step in steps if step.name not in moved]
    convs, count, flat = sum(step.has(("Conv2d",)) for step in kept), 0, False
    for i, stage in enumerate(stages := list(_stages(kept))):
        weighted = next((step for step in stage if step.has(_WEIGHTED)), stage[0])
        if weighted.has(("Linear",)) and not weighted.has(("Conv2d",)) and not flat:
            yield from _row(steps)
            flat = True
        norms = [step for step in stage if step.alone(_NORMS)]
        yield from (step for step in stage if step is weighted or step in norms)
        if i + 1 == len(stages):  # behind it are the logits
            break
        if activation.step is not None and not any(step.has(_ACTIVATIONS) for step in stage):
            yield activation.step
        behind = [step for step in stage if step is not weighted and step not in norms]
        yield from (step for step in behind if not step.has(_WINDOWS))
        count += weighted.has(("Conv2d",))
        if pool.step is not None and weighted.has(("Conv2d",)) and not any(step.has(_WINDOWS) for step in stage):
            yield from [pool.step] * (count % pool.every == 0 if pool.every else count == convs)
        yield from (step for step in behind if step.has(_WINDOWS))
    if not flat:
        yield from _row(steps)


def _stages(kept: Sequence[Step]) -> Iterator[list[Step]]:
    """Each layer with weights and what stands behind it; what stands before the first belongs to it."""
    stage: list[Step] = []
    for step in kept:
        if step.has(_WEIGHTED) and any(each.has(_WEIGHTED) for each in stage):
            yield stage
            stage = []
        stage.append(step)
    if stage:
        yield stage


def _row(steps: Sequence[Step]) -> Iterator[Step]:
    yield from (step for step in steps if step.alone(_ADAPTIVE))
    yield _FLAT
