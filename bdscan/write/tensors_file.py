"""Safetensors files: the same header but for a note on the origin, and the cleaned tensors where the old ones lay."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from bdscan import __version__
from bdscan.load.archive import safetensors_header
from bdscan.load.contents import Contents
from bdscan.write.file_tensors import Tensors

_ALIGNED = 8  # bytes; the format's writers pad the header so that the tensors begin at a multiple of it


def origin(sha256: str) -> dict[str, str]:
    """What is noted in a file that has room for notes."""
    return {"bdscan.purified_from": sha256, "bdscan.version": __version__}


def save(place: Path, contents: Contents, tensors: Tensors) -> None:
    """The surveyed file with other tensors in it."""
    with contents.weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = safetensors_header.read(data)
    order = [name for _, _, name in safetensors_header.spans(header)]
    metadata = safetensors_header.metadata(header) | origin(contents.sha256)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    write(place, metadata, entries, (tensors[name] for name in order))


def write(
    place: Path, metadata: Mapping[str, str], entries: Mapping[str, object], tensors: Iterable[torch.Tensor]
) -> None:
    """Written here and not by the library, whose files differ in their bytes from one time to the next."""
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with place.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            out.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
