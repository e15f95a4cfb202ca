"""Checkpoints whose archive is not what it seems."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench.hostile.checkpoints import (
    Entry,
    checkpoint,
    entries,
    infected,
    members,
    other_members,
    raw_zip,
    shifted,
    state,
    stored_zip,
    through_locator,
)
from bench.hostile.opcodes import PROTO, before, pickled, shell, system
from bench.hostile.recipe import Loader, Recipe, lies, odd, runs

_PICKLE = "archive/data.pkl"


def _bad(canary: Path) -> bytes:
    return before(system(canary), state())


def _infected(canary: Path) -> dict[str, bytes]:
    return members() | {_PICKLE: _bad(canary)}


def _changed(change: Callable[[Entry], Entry]) -> Callable[[Path], bytes]:
    """An infected checkpoint with the headers of its pickle changed."""
    return lambda canary: raw_zip([change(e) if e.name == _PICKLE else e for e in entries(_infected(canary))])


def _flagged(bit: int) -> Callable[[Path], bytes]:
    return _changed(lambda entry: replace(entry, flags=bit))


def _packed(method: int) -> Callable[[Path], bytes]:
    return lambda canary: stored_zip(_infected(canary), method)


def _with(more: Callable[[Path], Mapping[str, bytes]]) -> Callable[[Path], bytes]:
    """A plain checkpoint with something added."""
    return lambda canary: checkpoint(more=more(canary))


def _twice(names: tuple[str, str], bad_first: bool) -> Callable[[Path], bytes]:
    def make(canary: Path) -> bytes:
        bodies = [_bad(canary), state()] if bad_first else [state(), _bad(canary)]
        rest = [entry for entry in entries(members()) if entry.name != _PICKLE]
        return raw_zip([*(Entry(name, body) for name, body in zip(names, bodies, strict=True)), *rest])

    return make


def _nested(canary: Path) -> dict[str, bytes]:
    archive = infected(system(canary))
    for depth in range(5):
        archive = stored_zip({f"{depth}.zip": archive})
    return {"archive/extra.zip": archive}


def _renamed(new: str) -> Callable[[Path], bytes]:
    """The pickle under another name in the directory, a harmless one under the right name."""
    return lambda canary: raw_zip([*entries(members()), Entry(new, _bad(canary))])


def _other_local(_: Path) -> bytes:
    """The directory calls the harmless pickle what its local header calls something else, and the other way round."""
    rest = [entry for entry in entries(members()) if entry.name != _PICKLE]
    return raw_zip([Entry(_PICKLE, state(), local_name="archive/data.txt"), *rest])


def _big_endian(_: Path) -> bytes:
    return stored_zip(members() | {"archive/byteorder": b"big"})


def _deflated_pickle(canary: Path) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(_bad(canary)) + packer.flush()
    size, checksum = len(_bad(canary)), zlib.crc32(_bad(canary))
    return _changed(lambda e: Entry(e.name, packed, method=zipfile.ZIP_DEFLATED, size=size, checksum=checksum))(canary)


def _comment(canary: Path) -> bytes:
    """A whole infected archive in the comment: who looks for the last end record finds it."""
    return raw_zip(entries(members()), comment=raw_zip(entries(_infected(canary))))


def _link(_: Path) -> bytes:
    link = Entry("archive/link", b"/etc/passwd", attributes=0o120777 << 16)
    return raw_zip([*entries(members()), link])


def _extra(name: str, body: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return _with(lambda canary: {name: body(canary)})


def _evil(canary: Path) -> bytes:
    return pickled(system(canary))


def _old_evil(canary: Path) -> bytes:
    return f"cos\nsystem\n(S{shell(canary)!r}\ntR.".encode()


ZIPS: tuple[Recipe, ...] = (
    runs("plain.pt", Loader.TORCH, "os.system in a checkpoint", lambda c: infected(system(c))),
    runs("plain.ckpt", Loader.TORCH, "the same under another suffix", lambda c: infected(system(c))),
    runs("unusual.weights", Loader.TORCH, "the same under no suffix that is known", lambda c: infected(system(c))),
    runs(
        "broken-off.pt",
        Loader.TORCH,
        "breaks off behind the payload",
        lambda c: checkpoint(PROTO + system(c) + b"\xff"),
    ),
    runs(
        "checksum.pt",
        Loader.TORCH,
        "a wrong checksum, which torch does not look at",
        _changed(lambda e: replace(e, checksum=1)),
    ),
    runs("flag-descriptor.pt", Loader.TORCH, "said to have a descriptor behind it", _flagged(8)),
    runs("deflated.pt", Loader.TORCH, "deflated", _packed(zipfile.ZIP_DEFLATED)),
    runs("deflated-pickle.pt", Loader.TORCH, "its pickle alone is deflated", _deflated_pickle),
    runs(
        "twice-last.pt", Loader.TORCH, "two data.pkl, of which torch takes the last", _twice((_PICKLE, _PICKLE), False)
    ),
    runs(
        "locator-infected.pt",
        Loader.TORCH,
        "a zip64 locator leads torch to an infected directory",
        lambda c: through_locator(members(), _infected(c)),
    ),
    runs(
        "shifted-infected.pt",
        Loader.TORCH,
        "the end record names an infected directory, Python takes another",
        lambda c: shifted(members(), _infected(c)),
    ),
    odd("flag-encrypted.pt", "infected, and said to be encrypted", _flagged(1)),
    odd("flag-patched.pt", "infected, and said to be patch data", _flagged(0x20)),
    odd("flag-strong.pt", "infected, and said to be strongly encrypted", _flagged(0x40)),
    odd("bzip2.pt", "infected, packed with bzip2", _packed(zipfile.ZIP_BZIP2)),
    odd("lzma.pt", "infected, packed with lzma", _packed(zipfile.ZIP_LZMA)),
    odd(
        "prefix.pt",
        "infected, behind bytes that look like a zip",
        lambda c: b"PK\3\4" + bytes(60) + infected(system(c)),
    ),
    odd("trailing.pt", "bytes behind the archive", lambda _: checkpoint() + b"x" * 5000),
    odd("gap.pt", "bytes between members and directory", lambda _: raw_zip(entries(members()), gap=b"x" * 99)),
    odd("comment.pt", "an infected archive in the comment", _comment),
    odd(
        "second-pickle.pt",
        "a pickle behind the one that torch reads",
        lambda c: checkpoint(state() + _evil(c)),
        refusable=False,
    ),
    odd(
        "pickle-in-storage.pt",
        "a pickle at the beginning of a storage",
        lambda c: checkpoint(more={"archive/data/99": _evil(c)}),
        refusable=False,
    ),
    odd("pickle-in-text.pt", "a pickle called notes.txt", _extra("archive/notes.txt", _evil), refusable=False),
    odd(
        "old-pickle-in-text.pt",
        "a protocol-0 pickle called notes.txt",
        _extra("archive/notes.txt", _old_evil),
        refusable=False,
    ),
    odd("second-root.pt", "a second checkpoint beside the first", _extra("other/data.pkl", _evil), refusable=False),
    odd("backslash.pt", "a second pickle by a backslash", _renamed("archive\\data.pkl"), refusable=False),
    odd("upper-case.pt", "a second pickle in upper case", _renamed("ARCHIVE/DATA.PKL"), refusable=False),
    odd("nested.pt", "an infected checkpoint five zips deep", _with(_nested)),
    odd(
        "zip-in-zip.pt",
        "an infected checkpoint as a member",
        _extra("archive/x.pt", lambda c: infected(system(c))),
        refusable=False,
    ),
    odd("traversal.pt", "a member above the folder", _extra("archive/../../x", _old_evil)),
    odd("absolute.pt", "a member with an absolute name", _extra("/etc/x", _old_evil)),
    odd("nul-in-name.pt", "a NUL in a name", lambda _: checkpoint().replace(b"archive/version", b"archive/ver\0ion")),
    odd("link.pt", "a symbolic link", _link),
    odd("program.pt", "a program", _extra("archive/run.so", lambda _: b"\x7fELF" + bytes(60))),
    odd(
        "no-checkpoint.zip",
        "a zip of pickles that torch did not write",
        lambda c: stored_zip({"a.pkl": _evil(c), "b.txt": b"x"}),
        refusable=False,
    ),
    odd("truncated.pt", "its last third is missing", lambda c: infected(system(c))[:-2000]),
    odd("big-endian.pt", "said to be big-endian", _big_endian),
    lies("local-name.pt", "the local header has another name", _other_local),
    lies(
        "twice-first.pt",
        "two data.pkl: torch takes the last, others the infected first",
        _twice((_PICKLE, _PICKLE), True),
    ),
    lies("twice-case.pt", "data.pkl and an infected DATA.PKL", _twice(("archive/DATA.PKL", _PICKLE), True)),
    lies(
        "locator-weights.pt",
        "a zip64 locator leads torch to other weights",
        lambda _: through_locator(members(), other_members()),
    ),
    lies(
        "shifted-weights.pt",
        "the end record names other weights than Python's reader takes",
        lambda _: shifted(members(), other_members()),
    ),
    lies(
        "weights-twice.pt",
        "a tensor is there twice, with other values",
        lambda _: raw_zip([*entries(members()), *(e for e in entries(other_members()) if e.name == "archive/data/0")]),
    ),
    lies(
        "weights-case.pt",
        "a tensor is there twice, once in upper case",
        lambda _: raw_zip([Entry("ARCHIVE/DATA/0", other_members()["archive/data/0"]), *entries(members())]),
    ),
)
