"""The zip files that PyTorch writes: checkpoints, TorchScript programs and exported programs (.pt2)."""

from __future__ import annotations

import re
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive.zips import Archive, Member
from bdscan.load.danger import Danger
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import dangers, follow
from bdscan.load.pickle.opcodes import MOST_STEPS
from bdscan.load.pickle.records import Walk

_LARGEST_PICKLE = 512 << 20  # bytes; BackdoorBench's files with pictures in them reach 200 MB
_LARGEST_PACKED = 64 << 20
_PICKLED = (".pkl", ".pickle", ".debug_pkl", ".pt", ".pth", ".ckpt", ".bin", ".joblib")
_DEEPEST = 3


def kind(archive: Archive) -> str:
    """Which of PyTorch's zip files it is, by the members it must have."""
    root = archive.root
    if archive.find(f"{root}/archive_format") and archive.find(f"{root}/data/weights/model_weights_config.json"):
        return "pt2"
    if not archive.find(f"{root}/data.pkl"):
        raise Problem("it is a zip archive, but not one that PyTorch wrote", hint="unpack it and name the model file")
    return "torchscript" if archive.find(f"{root}/constants.pkl") else "pytorch zip"


def main_walk(archive: Archive) -> Walk:
    """The pickle that torch.load would read."""
    member = archive.find(f"{archive.root}/data.pkl")
    assert member is not None  # `kind` has seen it
    return _walks(archive, member)[0]


def examine(data: mmap) -> tuple[str, list[Danger], int]:
    """The kind, the dangers of every pickle and of the zip itself, and how many pickles there are."""
    archive = Archive(data)
    what = kind(archive)
    search = _Search()
    search.archive(archive)
    found = search.found
    grave = any(danger.level == Level.BACKDOOR for danger in found)
    if what != "pt2" and not grave and (broken := main_walk(archive).broken):
        raise Problem(f"its pickle breaks off: {broken}", hint="fetch the file again")
    if what == "torchscript":
        message = "it is a TorchScript program: only its tensors are read, its code is neither run nor judged"
        found.append(Danger(level=Level.NOTE, message=message, where=f"{archive.root}/code"))
    if what == "pytorch zip" and any(not member.stored for member in archive.members):
        message = "its members are compressed, which torch never does: it was packed again by somebody"
        found.append(Danger(level=Level.NOTE, message=message, where="zip"))
    return what, [*found, *archive.dangers], search.pickles


class _Search:
    """Follows each pickle in an archive, and in archives inside it."""

    def __init__(self) -> None:
        self.found: list[Danger] = []
        self.pickles = 0
        self._steps = MOST_STEPS

    def archive(self, archive: Archive, prefix: str = "", depth: int = 0) -> None:
        tensors = re.compile(rf"{re.escape(archive.root)}/(data|constants)/(\d+|weights/weight_\d+)", re.IGNORECASE)
        for member in archive.members:
            where = f"{prefix}{ascii(member.name)[1:-1]}"
            if tensors.fullmatch(member.name) or member.size == 0:
                continue
            try:
                self._member(archive, member, where, depth)
            except Problem as problem:  # one member that cannot be read must not hide what another one does
                self.found.append(Danger(level=Level.SUSPECT, message=problem.message, where=where))

    def _member(self, archive: Archive, member: Member, where: str, depth: int) -> None:
        head = archive.head(member)
        if head.startswith(b"PK") and depth < _DEEPEST:
            inner = Archive(_bytes(archive, member))
            self.archive(inner, f"{where}: ", depth + 1)
            self.found += inner.dangers
        elif member.name.lower().endswith(_PICKLED) or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
            if self._steps <= 0:
                raise Problem("its pickles are too long to be followed to their end")
            self._steps -= 0 if member.stored else member.size >> 5  # unpacking takes time too
            for walk in _walks(archive, member):
                self._steps -= walk.steps
                self._walk(walk, where)

    def _walk(self, walk: Walk, where: str) -> None:
        self.pickles += 1
        self.found += dangers(walk, where)
        if walk.broken:
            self.found.append(Danger(level=Level.SUSPECT, message=f"a pickle breaks off: {walk.broken}", where=where))


def _walks(archive: Archive, member: Member) -> list[Walk]:
    """The pickles of one member; behind a broken one nothing is looked for."""
    if member.stored and not member.info.flag_bits & 1:
        data, start, stop = archive.data, member.start, member.stop
    else:
        data = _bytes(archive, member)
        start, stop = 0, len(data)
    if legacy.recognised(data[start : start + 64]):
        return list(legacy.split(data[start:stop]).walks)
    return follow(data, start, stop)


def _bytes(archive: Archive, member: Member) -> bytes:
    return archive.read(member, _LARGEST_PICKLE if member.stored else _LARGEST_PACKED)
