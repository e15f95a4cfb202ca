"""The zip files that PyTorch writes: checkpoints, TorchScript programs and exported programs (.pt2)."""

from __future__ import annotations

import re
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive.zips import Archive, Member
from bdscan.load.danger import Danger, FileExamination
from bdscan.load.pickle import legacy
from bdscan.load.pickle.effects import dangers, follow_all
from bdscan.load.pickle.opcodes import MAX_STEPS
from bdscan.load.pickle.records import PickleTrace

_MAX_PICKLE = 512 << 20  # bytes; BackdoorBench's files with pictures in them reach 200 MB
_MAX_COMPRESSED_PICKLE = 64 << 20
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".debug_pkl", ".pt", ".pth", ".ckpt", ".bin", ".joblib")
_MAX_DEPTH = 3


def kind(archive: Archive) -> str:
    """Which of PyTorch's zip files it is, by the members it must have."""
    root = archive.root
    if archive.find(f"{root}/archive_format") and archive.find(f"{root}/data/weights/model_weights_config.json"):
        return "pt2"
    if not archive.find(f"{root}/data.pkl"):
        raise Problem("it is a zip archive, but not one that PyTorch wrote", hint="unpack it and name the model file")
    return "torchscript" if archive.find(f"{root}/constants.pkl") else "pytorch zip"


def main_pickle(archive: Archive) -> PickleTrace:
    """The pickle that torch.load would read."""
    member = archive.find(f"{archive.root}/data.pkl")
    assert member is not None  # `kind` has seen it
    return _traces(archive, member)[0]


def examine(data: mmap) -> FileExamination:
    """The kind, the dangers of every pickle and of the zip itself, and how many pickles there are."""
    archive = Archive(data)
    form = kind(archive)
    search = _PickleSearch()
    search.archive(archive)
    dangers_found = search.dangers_found
    grave = any(danger.level == Level.BACKDOOR for danger in dangers_found)
    if form != "pt2" and not grave and (broken := main_pickle(archive).broken):
        raise Problem(f"its pickle breaks off: {broken}", hint="fetch the file again")
    if form == "torchscript":
        message = "it is a TorchScript program: only its tensors are read, its code is neither run nor judged"
        dangers_found.append(Danger(Level.NOTE, message, f"{archive.root}/code"))
    if form == "pytorch zip" and any(not member.stored for member in archive.members):
        message = "its members are compressed, which torch never does: it was packed again by somebody"
        dangers_found.append(Danger(Level.NOTE, message, "zip"))
    return FileExamination(form, (*dangers_found, *archive.dangers), search.pickles)


class _PickleSearch:
    """Follows each pickle in an archive, and in archives inside it."""

    def __init__(self) -> None:
        self.dangers_found: list[Danger] = []
        self.pickles = 0
        self._steps = MAX_STEPS

    def archive(self, archive: Archive, prefix: str = "", depth: int = 0) -> None:
        tensors = re.compile(rf"{re.escape(archive.root)}/(data|constants)/(\d+|weights/weight_\d+)", re.IGNORECASE)
        for member in archive.members:
            where = f"{prefix}{ascii(member.name)[1:-1]}"
            if tensors.fullmatch(member.name) or member.size == 0:
                continue
            try:
                self._member(archive, member, where, depth)
            except Problem as problem:  # one member that cannot be read must not hide what another one does
                self.dangers_found.append(Danger(Level.SUSPECT, problem.message, where))

    def _member(self, archive: Archive, member: Member, where: str, depth: int) -> None:
        head = archive.head(member)
        if head.startswith(b"PK") and depth < _MAX_DEPTH:
            inner = Archive(_bytes(archive, member))
            self.archive(inner, f"{where}: ", depth + 1)
            self.dangers_found += inner.dangers
        elif member.name.lower().endswith(_PICKLE_SUFFIXES) or (
            head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"
        ):
            if self._steps <= 0:
                raise Problem("its pickles are too long to be followed to their end")
            self._steps -= 0 if member.stored else member.size >> 5  # unpacking takes time too
            for trace in _traces(archive, member):
                self._steps -= trace.steps
                self.pickles += 1
                self.dangers_found += dangers(trace, where)
                if trace.broken:
                    self.dangers_found.append(Danger(Level.SUSPECT, f"a pickle breaks off: {trace.broken}", where))


def _traces(archive: Archive, member: Member) -> list[PickleTrace]:
    """The pickles of one member; behind a broken one nothing is looked for."""
    if member.stored and not member.info.flag_bits & 1:
        data, start, stop = archive.data, member.start, member.stop
    else:
        data = _bytes(archive, member)
        start, stop = 0, len(data)
    if legacy.is_legacy(data[start : start + 64]):
        return legacy.split(data[start:stop]).traces
    return follow_all(data, start, stop)


def _bytes(archive: Archive, member: Member) -> bytes:
    return archive.read(member, _MAX_PICKLE if member.stored else _MAX_COMPRESSED_PICKLE)
