"""Exported programs (.pt2) rebuilt as torch nets: their graph is data, and nothing of it is compiled or run as code."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdscan.facts.problem import Problem
from bdscan.load.archive.torch_tree import mapped
from bdscan.load.archive.zips import Archive
from bdscan.load.exported.program import Follower, Program
from bdscan.load.exported.weights import MAX_TEXT, constants_of, model_name, weights_of
from bdscan.load.graph.batch import MALFORMED, check_batching, check_size, first_line
from bdscan.load.graph.build import Followed, build
from bdscan.load.graph.net import Entry
from bdscan.load.graph.obstacles import cannot_be_rebuilt, rebuilding
from bdscan.load.graph.rebuilt import Rebuilt, shape_of
from bdscan.load.graph.record import MAX_STEPS, Recorder

_FREE = 2  # images, where the program takes any number of them
_SIDE = 224  # pixels, where it does not say for what size it was exported


def rebuild(path: Path) -> Rebuilt:
    return of_data(mapped(path), path).rebuilt("exported program")


def of_data(data: mmap.mmap, path: Path) -> Followed:
    """The net, whose tensors' origins lie in these bytes, at the size it was exported for."""
    try:
        with rebuilding(path):
            return _followed(data, path)
    except (*MALFORMED, RecursionError) as error:
        raise Problem(f"`{path}` cannot be rebuilt, its graph is malformed: {first_line(error)}") from error


def _followed(data: mmap.mmap, path: Path) -> Followed:
    archive = Archive(data)
    program = Program.of(_text(archive))
    if len(program.graph["nodes"]) > MAX_STEPS:
        raise Problem(f"its graph has {len(program.graph['nodes']):,} nodes, more than any net holds")
    if unknown := program.unknown:
        raise cannot_be_rebuilt(unknown)
    (batch, free), *sides = program.dims
    batch = _FREE if free or batch < 1 else batch
    shape = shape_of([side or _SIDE for side, _ in sides])
    if shape is None:
        raise Problem(f"it takes rows of {sides[0][0]} numbers, which are no square image")
    check_size(path, shape, batch)
    weights, constants = weights_of(archive), constants_of(archive)
    recorder = Recorder(shape, batch, Entry(axes=len(program.dims)))
    image = recorder.image()
    built = build(recorder, image, Follower(program, weights, constants, recorder).follow(image))
    batch = 1 if free else batch
    check_batching(path, shape, batch, lambda pixels: (built.net(pixels[:batch]), built.net(pixels)))
    total = sum(tensor.is_floating_point() for tensor, _ in (*weights.values(), *constants.values()))
    return Followed(built, shape, not any(is_open for _, is_open in sides[-2:]), total)


def _text(archive: Archive) -> Mapping[str, Any]:
    archive.require_one_reading()
    member = archive.find("serialized_exported_program.json")
    member = member or archive.find(f"{archive.root}/models/{model_name(archive)}.json")
    if member is None:
        raise Problem("it holds no graph")
    return json.loads(archive.read(member, MAX_TEXT))  # type: ignore[no-any-return]
