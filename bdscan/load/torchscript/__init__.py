"""TorchScript programs rebuilt as torch nets: their text is followed as data, and nothing of it is compiled or run."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.arch.bounded import OutOfProportion
from bdscan.load.archive.torch_tree import mapped
from bdscan.load.assembly.unwrap import unwrap
from bdscan.load.code.budget import Budget
from bdscan.load.graph.batch import MALFORMED, check_batching, check_size, first_line
from bdscan.load.graph.build import Built, Followed, build
from bdscan.load.graph.net import Entry
from bdscan.load.graph.obstacles import cannot_be_rebuilt, rebuilding
from bdscan.load.graph.rebuilt import Rebuilt, Shape, shape_of, square
from bdscan.load.graph.record import Recorder, Undecidable, Unknown, Value, same_operations
from bdscan.load.torchscript.archive import Parts
from bdscan.load.torchscript.vocabulary import Script, unknown_in

_STEPS = 200_000  # expressions in one attempt; torchvision's DenseNet-121 takes some 28,000
_ALL_STEPS = 2_000_000  # in all attempts: a net that takes one size only is tried with a hundred, and is small
_FEW = 2  # images: what a program that takes any number of them is followed with
# Sides that nets with a flattening are made for, beside the commonest: few of them fit such a net, the round first.
_OTHER_SIDES = (
    *(48, 96, 100, 128, 256, 150, 200, 300, 227),
    *(side for step in (8, 4, 2) for side in range(8, 128, step)),
    *(144, 160, 180, 192, 208, 240, 250, 320, 384, 400, 448, 480, 500, 512),
)
_LARGE = 224  # pixels: a net that chooses its way by the size of the image is one for photographs


def rebuild(path: Path) -> Rebuilt:
    return of_data(mapped(path), path).rebuilt("TorchScript program")


def of_data(data: mmap.mmap, path: Path) -> Followed:
    """The net, whose tensors' origins lie in these bytes, at the first size that it takes."""
    with rebuilding(path):
        script = Script(Parts(data), _ALL_STEPS)
        built, recorder = _followed(script)
        shape, batch = recorder.shape, 1 if recorder.batch == _FEW else recorder.batch
        check_size(path, shape, batch)
        check_batching(path, shape, batch, lambda pixels: (built.net(pixels[:batch]), built.net(pixels)))
    return Followed(built, shape, recorder.sized, len(_held(script)))


def _followed(script: Script) -> tuple[Built, Recorder]:
    """With the first image that the program takes."""
    failures: list[str] = []
    found: tuple[Built, Recorder] | None = None
    for recorder in _attempts(script):
        shape = recorder.shape
        if found is not None and (not found[1].sized or shape[1] != _LARGE or shape[0] != found[1].shape[0]):
            continue
        try:
            found = _attempt(script, recorder), recorder
        except Unknown as unknown:
            raise cannot_be_rebuilt(unknown_in(script.parts.texts.values(), unknown.op)) from None
        except OutOfProportion as error:
            raise Problem(str(error)) from None
        except MALFORMED as error:
            failures.append(first_line(error))
        if found is not None and (not found[1].sized or script.parts.traced_with or found[1].shape[1] == _LARGE):
            break
    if found is None:
        hint = "give the PyTorch checkpoint that it was made from"
        raise Problem(f"it takes images of none of the usual sizes ({failures[0]})", hint=hint)
    return found


def _attempts(script: Script) -> Iterator[Recorder]:
    """Images to try: what the program was traced with, what its first layer takes in a row, else what is usual."""
    batch, *sides = script.parts.traced_with or (1,)
    stated = shape_of(sides) if sides else _row(script)
    if sides and stated is None:
        raise Problem(f"it takes rows of {sides[0]} numbers, which are no square image")
    usual = ((channels, side, side) for channels in (3, 1) for side in (*Rebuilt.sizes, *_OTHER_SIDES))
    shapes = [stated] if stated else list(dict.fromkeys(usual))
    for axes in (len(sides) + 1,) if sides else (4, 2) if stated else (4,):
        for images in dict.fromkeys((_FEW, batch)):
            yield from (Recorder(shape, images, Entry(axes=axes)) for shape in shapes)


def _row(script: Script) -> Shape | None:
    """The square image whose numbers the first layer takes, where there are no maps."""
    with_axes = [tensor for tensor in _held(script) if tensor.dim() > 1]
    return square(with_axes[0].shape[1]) if with_axes and all(each.dim() == 2 for each in with_axes) else None


def _attempt(script: Script, recorder: Recorder) -> Built:
    image, answer = _run(script, recorder, "cpu")
    if script.asks_device:
        other = Recorder(recorder.shape, recorder.batch, recorder.entry)
        _run(script, other, "cuda:0")
        if not same_operations(recorder.operations, other.operations):
            raise Undecidable("its code does something else on another device")
    built = build(recorder, image, answer)
    rows = built.answer.shape[0]
    if rows != recorder.batch:
        raise ValueError(f"it gives {rows} answers for {recorder.batch} images")
    return built


def _run(script: Script, recorder: Recorder, device: str) -> tuple[Value, object]:
    script.begin(recorder, device)
    image = recorder.image()
    budget = Budget(most := min(_STEPS, script.steps))
    with script.interpreter.running(budget):
        forward = script.interpreter.attribute(script.root, "forward")
        try:
            answer = script.interpreter.call(forward, image)
        finally:
            script.steps -= most - budget.steps
    return image, list(answer.values()) if isinstance(answer, dict) else answer


def _held(script: Script) -> list[Tensor]:
    """The program's tensors of fractions."""
    held = [*script.parts.constants]
    with suppress(Problem):  # a frozen program has none beside its constants
        held += unwrap(*script.parts.tree).tensors.values()
    return [tensor for tensor in held if tensor is not None and tensor.is_floating_point()]
