"""The zip files that PyTorch writes: checkpoints, TorchScript programs and exported programs (.pt2)."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.archive import keras_outline
from bdscan.load.archive.search import Place, Search
from bdscan.load.archive.zips import Archive
from bdscan.load.danger import Danger, FileExamination
from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.opcodes import follow_one
from bdscan.load.pickle.records import PickleTrace

_OLD_PROGRAM = "serialized_exported_program.json"  # torch.export before 2.8


def kind(archive: Archive) -> str:
    """Which of PyTorch's zip files it is, by the members it must have; `zip archive` where it is none of them."""
    root = archive.root
    if archive.all_named(f"{root}/archive_format") or archive.all_named(_OLD_PROGRAM):
        return "pt2"
    if archive.all_named(keras_outline.CONFIG) and archive.all_named(keras_outline.WEIGHTS):
        return "keras"
    if not archive.all_named(f"{root}/data.pkl"):
        return "zip archive"
    return "torchscript" if archive.all_named(f"{root}/constants.pkl") else "pytorch zip"


def main_pickle(archive: Archive, part: str = "data") -> PickleTrace:
    """The pickle that torch.load would read, or another part of a program."""
    archive.require_one_reading()
    member = archive.find(f"{archive.root}/{part}.pkl")
    if member is None:
        raise Problem(f"it holds no `{part}.pkl`")
    if member.stored and member.readable:
        return follow_one(archive.data, member.start, member.stop)
    unpacked = archive.read(member, max(64 << 20, len(archive.data)))
    return follow_one(unpacked, 0, len(unpacked))


def examine(data: bytes | mmap) -> FileExamination:
    """The kind, the dangers of every pickle and of the zip itself, and how many pickles there are."""
    archive = Archive(data)
    form, search = kind(archive), Search(len(data))
    search.archive(archive, Place(data, 0, len(data), ""))
    search.add(*_strangers(archive, form), *_notes(archive, form))
    grave = any(danger.level > Level.NOTE for danger in search.dangers_found)
    if not grave and (broken := _broken(archive, search)):
        raise Problem(f"its pickle breaks off: {broken}", hint="fetch the file again")
    return search.result(form)


def _broken(archive: Archive, search: Search) -> str:
    firsts = (search.firsts.get(member.entry.header) for member in archive.all_named(f"{archive.root}/data.pkl"))
    return next((first.broken for first in firsts if first is not None), "")


def _strangers(archive: Archive, form: str) -> Iterator[Danger]:
    """Members where none of PyTorch's writers puts any."""
    if form == "keras":
        config = archive.find(keras_outline.CONFIG)
        if config is not None:
            description = keras_outline.parsed(archive.read(config, keras_outline.MAX_CONFIG))
            yield from keras_outline.dangers(description, keras_outline.CONFIG)
    if form in ("keras", "zip archive"):
        return
    root = f"{archive.root}/"
    if form == "pt2" and archive.all_named(f"{root}data.pkl"):
        message = "it is a checkpoint and an exported program at once: what is loaded depends on the reader"
        yield Danger(Level.BACKDOOR, message, "zip")
    for member in archive.members:
        shown = quoted(member.name)
        if not member.name.startswith(root) and not archive.all_named(_OLD_PROGRAM):
            yield Danger(Level.SUSPECT, f"the member {shown} lies outside the folder of the others", f"zip, {shown}")
            return
        if member.name.lower().endswith("/data.pkl") and member.name != f"{root}data.pkl":
            yield Danger(Level.SUSPECT, f"the archive carries another checkpoint, {shown}", f"zip, {shown}")
            return


def _notes(archive: Archive, form: str) -> Iterator[Danger]:
    if form == "pytorch zip" and any(not member.stored for member in archive.members):
        message = "its members are compressed, which torch never does: it was packed again by somebody"
        yield Danger(Level.NOTE, message, "zip")
