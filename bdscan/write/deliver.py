"""Writes, reads again, compares, and only then lets the files appear."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import Contents, survey
from bdscan.load.onnx import rebuild
from bdscan.net.classifier import Classifier
from bdscan.write import checkpoint, folder, onnx_export, onnx_weights, reread, tensors_file
from bdscan.write.file_tensors import as_in_file
from bdscan.write.targets import card_place, check, family
from bdscan.write.written import Written


def deliver(
    contents: Contents, loaded: Loaded, cleaned: Classifier, output: Path, card: str | None, onnx: Path | None
) -> Written:
    """See `bdscan.write.cleaned.write`."""
    check(contents, loaded, output, onnx)
    _check_same_net(loaded.suspect, cleaned)
    _check_unchanged(contents)
    with _explained(output), AtomicFiles() as atomic:
        place = atomic.temporary(output)
        into = _folder(contents, place) if contents.path.is_dir() else place
        write = _graph if family(contents) == "onnx" else _weights
        notes = write(contents, loaded, cleaned, into)
        files = [output]
        if contents.path.is_dir():
            notes += folder.copy(contents.path, place, contents.config or {}, contents.weights.name)
        if card is not None:
            files.append(card_place(contents, output))
            card_file = place / "README.md" if contents.path.is_dir() else atomic.temporary(files[-1])
            card_file.write_text(card, encoding="utf-8")
        if onnx is not None:
            files.append(onnx)
            notes += onnx_export.export(atomic.temporary(onnx), cleaned, contents.sha256)
        sha256 = survey(place).sha256
    return Written(output=output, sha256=sha256, files=tuple(files), notes=tuple(notes))


def _check_same_net(old: Classifier, new: Classifier) -> None:
    """Purifiers promise the architecture that the suspect came with."""
    outlines = [{name: tensor.shape for name, tensor in net.net.net.state_dict().items()} for net in (old, new)]
    if outlines[0] != outlines[1]:
        differing = sorted(name for name, _ in outlines[0].items() ^ outlines[1].items())
        raise AssertionError(f"the cleaned net is not of the suspect's architecture: {', '.join(differing[:3])}")
    for ours, theirs in ((old.net.mean, new.net.mean), (old.net.std, new.net.std)):
        if not torch.equal(ours.cpu(), theirs.cpu()):
            raise AssertionError("the cleaned net is normalised otherwise than the suspect")


def _check_unchanged(contents: Contents) -> None:
    """The original is read once more, and what is not in it any more cannot be taken from it."""
    try:
        with contents.weights.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == contents.sha256
    except OSError as error:
        raise Problem(f"`{contents.weights}` cannot be read any more: {error.strerror}") from None
    if not same:
        raise Problem(f"`{contents.weights}` has changed since it was read", hint="start again")


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Problem(
            f"`{output}` cannot be written: {reason}", hint="nothing was left behind; name another place", status=USAGE
        ) from error


def _folder(contents: Contents, place: Path) -> Path:
    place.mkdir()
    return place / contents.weights.name


def _weights(contents: Contents, loaded: Loaded, cleaned: Classifier, place: Path) -> list[str]:
    original = read(contents)
    net = cleaned.net.net
    new = as_in_file(net.state_dict(), original.tensors, loaded.convert)
    notes: list[str] = []
    if contents.format == "safetensors":
        named = {original.prefix + name: tensor for name, tensor in new.items()}
        tensors_file.save(place, contents, named)
    else:
        tree, notes = checkpoint.filled(contents, original, net, new)
        checkpoint.save(place, tree)
        if contents.format in ("pytorch legacy", "bare pickle"):
            notes.append(f"the {contents.format} file was written in the zip form of `torch.save`")
    written = reread.tensors(place, original, new, ordered=contents.format != "safetensors")
    reread.answers(written, loaded, cleaned)
    return notes


def _graph(contents: Contents, loaded: Loaded, cleaned: Classifier, place: Path) -> list[str]:
    old, new = loaded.suspect.net.net.state_dict(), cleaned.net.net.state_dict()
    weight_map = onnx_weights.WeightMap.find(contents.weights, loaded.suspect.net.net)
    rounding = weight_map.save(place, new, old, contents.sha256)
    reread.compare(rebuild(place).net, cleaned, rounding)
    return list(weight_map.notes)
