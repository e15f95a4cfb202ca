"""Which nets of the libraries a file's tensors could be of, by a sketch of each net's names and shapes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bdscan.load.nets.candidate import Outline

INDEX = Path(__file__).with_name("library_index.json")
# Tensors of a net that stand for all, drawn by their hash: the same ones of any file of that net. Of sixteen, one or
# two are of the head or the stem that people replace.
_SAMPLE = 16
_MARGIN = 0.15  # of the share, by which the sample may be wrong: two of its tensors


def sketch(outline: Outline) -> str:
    """How many tensors a net has, and the hashes of a sample of them."""
    chosen = sorted(_hashes(outline))[:_SAMPLE]
    return f"{len(outline)} {''.join(f'{value & 0xFFFF:04x}' for value in chosen)}"


def nearest(outline: Outline, least: float) -> Iterator[tuple[float, str]]:
    """Share of the tensors that net and file have in common, and the net's name with its library, the nearest first.

    `least` is the smallest share of interest. Nets with the same tensors come in the order of the index.
    """
    present = {value & 0xFFFF for value in _hashes(outline)}
    found = []
    for (count, sample), names in _index().items():
        common = count * sum(value in present for value in sample) / max(1, len(sample))
        share = common / max(1.0, count + len(outline) - common)
        if share >= least:
            found.append((share, names))
    best = max(found, default=(0.0, []))[0]
    for share, names in sorted(found, key=lambda pair: -pair[0]):
        if share >= best - _MARGIN:
            yield from ((share, name) for name in names)


def _hashes(outline: Outline) -> Iterator[int]:
    return (zlib.crc32(f"{name} {shape}".encode("utf-8", "replace")) for name, shape in outline.items())


@cache
def _index() -> dict[tuple[int, tuple[int, ...]], list[str]]:
    table: dict[str, str] = json.loads(INDEX.read_text())
    result = {}
    for entry, names in table.items():
        count, _, sample = entry.partition(" ")
        result[int(count), tuple(int(sample[i : i + 4], 16) for i in range(0, len(sample), 4))] = names.split()
    return result
