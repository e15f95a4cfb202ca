"""The one training loop: every method that trains, trains here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.net.checkpoint import StageCheckpoint
from bdscan.net.classifier import Classifier

Augment = Callable[[Tensor, torch.Generator], Tensor]
Schedule = Literal["one-cycle", "cosine", "constant"]  # how the rate goes from the first step to the last
Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]  # net, pixels, labels, their places in the set


def crop_and_flip(pixels: Tensor, generator: torch.Generator, *, flip: bool = True, pad: int = 4) -> Tensor:
    """Random crop (zero padding) and mirror, a whole batch at once."""
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, (pad, pad, pad, pad))
    rows = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator) + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    index = torch.arange(count, device=pixels.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop without the mirror, for signs, digits and whatever else has a left and a right."""
    return crop_and_flip(pixels, generator, flip=False)


def shuffled(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch of shuffled batches; a last batch of one image is left out (batch norm cannot use it)."""
    for index in torch.randperm(count, generator=generator).split(batch):
        if len(index) > 1 or count == 1:
            yield index


def autocast(device: torch.device, enabled: bool = True) -> torch.autocast | nullcontext[None]:
    """bf16 where the hardware has it: roughly doubles the speed on CUDA and on such CPUs, and slows others down."""
    if not enabled or (device.type == "cpu" and not _cpu_has_bf16()):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _cpu_has_bf16() -> bool:
    """Torch's own check; there is no public one."""
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check()) if check is not None else False


def cross_entropy(net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """The plain objective."""
    return F.cross_entropy(net(pixels).float(), labels)


def fit(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    rate: float = 0.1,
    batch: int = 128,
    momentum: float = 0.9,
    decay: float = 5e-4,
    schedule: Schedule = "one-cycle",
    seed: int = 0,
    augment: Augment | None = None,
    objective: Objective | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    half: bool = True,
    checkpoint: StageCheckpoint | None = None,
) -> nn.Module:
    """Train `net` in place on uint8 images (NCHW) and leave it in eval mode."""
    device = next(net.parameters()).device
    net.train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    each = sum(1 for _ in shuffled(len(images), batch, torch.Generator().manual_seed(seed)))
    steps = each * epochs
    weights = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0)
    state = _State(net, optimiser, generator)
    done = state.taken_up(checkpoint.last()) if checkpoint is not None else 0
    for index in _batches(state, len(images), batch, each, done, epochs):
        for group in optimiser.param_groups:
            group["lr"] = rate * _share_of_rate(schedule, done, steps)
        pixels, batch_labels = images[index].to(device).float().div_(255), labels[index].to(device)
        if augment is not None:
            pixels = augment(pixels, generator)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with autocast(device, half):
            value = (objective or cross_entropy)(net, pixels, batch_labels, index)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        if after_step is not None:
            after_step(net)
        done += 1
        if progress is not None:
            progress(done, steps)
        if checkpoint is not None:
            checkpoint.step(done, steps, state.now)
    return net.eval().to(memory_format=torch.contiguous_format)


def retrained(model: Classifier, images: Tensor, labels: Tensor, **course: Any) -> Classifier:
    """A copy with every weight trained on these images; `course` is for `fit`."""
    copy = model.clone()
    fit(copy.net.requires_grad_(True), images, labels, **course)
    copy.net.requires_grad_(False)
    return copy


class _State:
    """All that the next step depends on."""

    def __init__(self, net: nn.Module, optimiser: torch.optim.SGD, generator: torch.Generator) -> None:
        self.net, self.optimiser, self.generator = net, optimiser, generator
        self.begun = generator.get_state()  # as it was when the epoch's order was drawn
        self.drawn: Tensor | None = None  # as it was when an interrupted epoch was left

    def now(self) -> dict[str, Tensor]:
        weights = self.optimiser.param_groups[0]["params"]
        buffers = [self.optimiser.state[weight].get("momentum_buffer") for weight in weights]
        return {
            **{f"net.{name}": tensor.detach().clone() for name, tensor in self.net.state_dict().items()},
            **{f"momentum.{i}": state.clone() for i, state in enumerate(buffers) if state is not None},
            "begun": self.begun,
            "drawn": self.generator.get_state(),
        }

    def taken_up(self, kept: tuple[int, dict[str, Tensor]] | None) -> int:
        if kept is None:
            return 0
        done, state = kept
        self.net.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("net.")})
        for i, weight in enumerate(self.optimiser.param_groups[0]["params"]):
            if f"momentum.{i}" in state:
                buffer = torch.empty_like(weight).copy_(state[f"momentum.{i}"])
                self.optimiser.state[weight]["momentum_buffer"] = buffer
        self.begun, self.drawn = state["begun"], state["drawn"]
        return done


def _batches(state: _State, count: int, batch: int, each: int, done: int, epochs: int) -> Iterator[Tensor]:
    """Every batch that is left; in an epoch that was interrupted the rest of its own order."""
    for epoch in range(done // max(each, 1), epochs):
        left, state.drawn = state.drawn, None
        skip = done - epoch * each if left is not None else 0
        if left is not None:
            state.generator.set_state(state.begun if skip else left)
        state.begun = state.generator.get_state()
        order = list(shuffled(count, batch, state.generator))
        if left is not None and skip:
            state.generator.set_state(left)
        yield from order[skip:]


def _share_of_rate(schedule: Schedule, step: int, steps: int) -> float:
    at = step / max(1, steps - 1)
    match schedule:
        case "one-cycle":  # up from 4 % for the first 30 % of the way, then a cosine down
            return at / 0.3 * 0.96 + 0.04 if at < 0.3 else 0.5 * (1 + math.cos(math.pi * (at - 0.3) / 0.7))
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * at))
        case "constant":
            return 1.0
        case other:
            assert_never(other)
