"""Programs and modules that were pickled whole: the same archive, with the cleaned numbers where the old ones lay."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem, unusable
from bdscan.load import exported, torchscript
from bdscan.load.archive import zip_directory
from bdscan.load.archive.torch_tree import mapped
from bdscan.load.archive.zips import Archive, Member
from bdscan.load.assembly.unwrap import Weights
from bdscan.load.contents import Contents
from bdscan.load.nets.candidate import BATCH_COUNTER

_READERS = {"pt2": exported.of_data, "torchscript": torchscript.of_data}
_HINT = "give the PyTorch checkpoint that the program was made from"
_CRC_IN_ENTRY, _CRC_IN_HEADER = 16, 14  # bytes from where each begins
_FIXED = 46  # bytes of a directory's entry before its name
_MARK = b"PK\7\x08"


@dataclass(frozen=True, eq=False)
class ProgramWeights:
    """The file's bytes, in memory of our own, and the net's tensors as they lie in them."""

    data: mmap.mmap
    origins: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, contents: Contents, net: nn.Module) -> ProgramWeights:
        """A `Problem` where a tensor that may be cleaned is none of the file's."""
        data = mapped(contents.weights)
        built = _READERS[contents.format](data, contents.weights).built
        start = torch.frombuffer(data, dtype=torch.uint8).data_ptr()
        inside = {name: tensor for name, tensor in built.origins.items() if 0 <= tensor.data_ptr() - start < len(data)}
        cleanable = {name for name, _ in net.named_parameters(remove_duplicate=False)}
        cleanable |= {name for name, _ in net.named_buffers() if ".running_" in name}
        for name in sorted(cleanable - inside.keys()):
            message = (
                f"`{contents.path}` works out its tensor `{name}` from others or packs it, so it cannot be written"
            )
            raise unusable(f"{message} back", _HINT)
        if _overlap(inside):
            message = f"`{contents.path}` uses one tensor in several forms, so it cannot be written back"
            raise unusable(message, _HINT)
        return cls(data, inside)

    @classmethod
    def of_module(cls, contents: Contents, weights: Weights) -> ProgramWeights | None:
        """Of a module that is all that its file holds; None where its tensors do not lie there each by itself, or
        where the file is not to be handed on as it is."""
        data, origins = weights.data, weights.tensors
        alone = weights.module is not None and weights.wrapper is None and contents.format == "pytorch zip"
        if data is None or not alone or any(danger.level == Level.BACKDOOR for danger in contents.dangers):
            return None
        start = torch.frombuffer(data, dtype=torch.uint8).data_ptr()
        inside = all(0 <= tensor.data_ptr() - start < len(data) for tensor in origins.values())
        return cls(data, origins) if inside and not _overlap(origins) else None

    def save_all(self, place: Path, new: Mapping[str, Tensor]) -> None:
        """Every tensor of the file, in its type."""
        for name, origin in self.origins.items():
            origin.copy_(new[name])
        if any(not torch.equal(origin, new[name]) for name, origin in self.origins.items()):
            raise Problem("one tensor of the file stands for two layers that are no longer alike")
        self._write(place)

    def save(self, place: Path, state: Mapping[str, Tensor], old: Mapping[str, Tensor], _: str) -> float:
        """Writes the file; gives back the coarsest rounding among the types of what was changed."""
        rounding = 0.0
        new = {name: tensor.detach().cpu() for name, tensor in state.items()}
        for name, tensor in new.items():
            origin = self.origins.get(name)
            if origin is not None and origin.is_floating_point():
                origin.copy_(tensor)
                rounding = max(rounding, torch.finfo(origin.dtype).eps)
            elif not name.endswith(BATCH_COUNTER) and not torch.equal(tensor, old[name].cpu()):
                raise Problem(f"the cleaned tensor `{name}` has no place of its own in the file")
        for name, origin in self.origins.items():
            if not torch.equal(origin, new[name].to(origin.dtype)) or not bool(torch.isfinite(origin).all()):
                raise Problem(f"the cleaned tensor `{name}` cannot be kept in the type or the place that the file has")
        self._write(place)
        return rounding

    def _write(self, place: Path) -> None:
        self._mend_checksums()
        with place.open("xb") as file:
            file.write(self.data)

    def _mend_checksums(self) -> None:
        stored = {member.entry.header: member for member in Archive(self.data).members if member.stored}
        for at, header in _entries(self.data):
            member = stored.get(header)
            crc = zlib.crc32(self.data[member.start : member.stop]) if member is not None else 0
            if member is not None and crc != member.entry.crc:
                for where in (at + _CRC_IN_ENTRY, *_other_places(self.data, member)):
                    self.data[where : where + 4] = crc.to_bytes(4, "little")


def _overlap(tensors: Mapping[str, Tensor]) -> bool:
    """Whether numbers are part of two tensors that are not one and the same."""
    spans = sorted({_span(tensor) for tensor in tensors.values() if tensor.numel()}, key=lambda span: span[:2])
    return any(begin < stop for (_, stop, _), (begin, _, _) in pairwise(spans))


def _span(tensor: Tensor) -> tuple[int, int, object]:
    """The bytes that it lies in, and how."""
    start = tensor.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (reach + 1) * tensor.element_size(), (tensor.shape, tensor.stride())


def _entries(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where each entry of the directory lies, and the local header it points to."""
    directory = zip_directory.by_torch(data)
    entries = zip_directory.torch_entries(data, directory)
    at = directory.start
    for entry in entries:
        yield at, entry.header
        lengths = (int.from_bytes(data[at + i : at + i + 2], "little") for i in (28, 30, 32))
        at += _FIXED + sum(lengths)


def _other_places(data: mmap.mmap, member: Member) -> Iterator[int]:
    """Where else the checksum stands: in the local header, or behind the bytes."""
    old = member.entry.crc.to_bytes(4, "little")
    header = member.entry.header + _CRC_IN_HEADER
    if data[header : header + 4] == old:
        yield header
    if member.described:
        behind = member.stop + (4 if data[member.stop : member.stop + 4] == _MARK else 0)
        if data[behind : behind + 4] == old:
            yield behind
