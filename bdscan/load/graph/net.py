"""A graph as a torch net: every node a named child that can be hooked, differentiated and replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

_MAX_NAME = 100  # characters of a layer's name
Value = Any  # a tensor; where sizes are worked out from shapes, whatever these give


@dataclass(frozen=True)
class Step:
    """One thing to do: a child of the net by its name, or sums on shapes that are nobody's layer."""

    child: str
    on_shapes: Callable[..., Any] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_use: tuple[str, ...] = ()  # what nobody needs afterwards


@dataclass(frozen=True)
class Entry:
    """How images (N x C x H x W, between 0 and 1) become what a graph takes."""

    channels_last: bool = False
    axes: int = 4  # 2: the numbers of an image in one row; 3: no axis for channels
    scale: float = 1.0  # 255 where it takes bytes

    def __call__(self, pixels: Tensor) -> Tensor:
        placed = pixels.permute(0, 2, 3, 1) if self.channels_last else pixels
        if self.axes < 4:
            placed = placed.flatten(1) if self.axes == 2 else placed.reshape(len(placed), *pixels.shape[2:])
        return placed if self.scale == 1.0 else placed * self.scale


class StepNet(nn.Module):
    """Runs its steps one after another."""

    def __init__(self, image: str, answer: str, entry: Entry = Entry()) -> None:
        super().__init__()
        self.image, self.answer, self.entry = image, answer, entry
        self.steps: list[Step] = []

    def forward(self, pixels: Tensor) -> Tensor:
        values = self.begin(pixels)
        for step in self.steps:
            self.advance(values, step)
        answer: Tensor = values[self.answer]
        return answer

    def begin(self, pixels: Tensor) -> dict[str, Value]:
        return {self.image: self.entry(pixels)}

    def advance(self, values: dict[str, Value], step: Step) -> None:
        arguments = [values[name] for name in step.inputs]
        results = getattr(self, step.child)(*arguments) if step.on_shapes is None else step.on_shapes(*arguments)
        values.update(zip(step.outputs, results if isinstance(results, tuple) else (results,), strict=False))
        for name in step.last_use:
            del values[name]

    def add(self, name: str, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        child = re.sub(r"\W+", "_", name[:_MAX_NAME]).strip("_") or "node"
        if hasattr(self, child):
            child = f"{child}_{len(self.steps)}"
        while hasattr(self, child):
            child += "_"
        self.add_module(child, module)
        self.steps.append(Step(child, None, inputs, outputs))

    def close(self) -> None:
        """Note after which step each value can go."""
        alive, steps = {self.answer}, []
        for step in reversed(self.steps):
            last_use = tuple(sorted({*step.inputs, *step.outputs} - alive - {""}))
            alive |= set(step.inputs)
            steps.append(replace(step, last_use=last_use))
        self.steps = steps[::-1]
