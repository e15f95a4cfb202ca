"""Writes a cleaned model in the form it came in: whole or not at all, the original untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import unusable
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.tensors import read
from bdscan.load.assembly.unwrap import Weights
from bdscan.load.contents import Contents, survey
from bdscan.net.classifier import Classifier
from bdscan.write import checkpoint, folder, onnx_export, reread, tensors_file
from bdscan.write.file_tensors import Tensors, as_in_file
from bdscan.write.keras_file import KerasMap
from bdscan.write.onnx_weights import WeightMap
from bdscan.write.program_weights import ProgramWeights
from bdscan.write.targets import card_place, check, own_graph


@dataclass(frozen=True, kw_only=True)
class Written:
    """What stands on the disk now, and what differs from the original besides the weights."""

    output: Path
    sha256: str  # of the file with the weights
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()  # sentences for the report


def ready(contents: Contents, loaded: Loaded, output: Path, *, onnx: Path | None = None) -> Sequence[str]:
    """What of the file cannot stay as it is; raises `Problem` for all that would keep `write` from writing there."""
    check(contents, loaded, output, onnx)
    if own_graph(loaded.suspect.net.net):
        return _GRAPHS[contents.format](contents, loaded.suspect.net.net).notes
    return _prepared(contents, read(contents), loaded, loaded.suspect.net.net)[2]


def write(
    contents: Contents,
    loaded: Loaded,
    cleaned: Classifier,
    output: Path,
    *,
    card: str | None = None,
    onnx: Path | None = None,
) -> Written:
    """The cleaned weights in the place of the old ones, read again and compared before they appear under their name.

    `card` is written beside the file, or as `README.md` into the folder; `onnx` names a second file, an export.
    """
    check(contents, loaded, output, onnx)
    _check_same_net(loaded.suspect, cleaned)
    contents.check_unchanged()
    with explained(output, "name another place"), AtomicFiles() as atomic:
        place, in_folder = atomic.temporary(output), contents.path.is_dir()
        if in_folder:
            place.mkdir()
        write_model = _graph if own_graph(loaded.suspect.net.net) else _weights
        notes = write_model(contents, loaded, cleaned, place / contents.weights.name if in_folder else place)
        files = [output]
        if in_folder:
            notes += folder.copy(contents.path, place, contents.config or {}, contents.weights.name)
        if card is not None:
            files.append(card_place(contents, output))
            card_file = place / "README.md" if in_folder else atomic.temporary(files[-1])
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


@contextmanager
def explained(output: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"`{output}` cannot be written: {error.strerror or type(error).__name__}"
        raise unusable(message, f"nothing was left behind; {remedy}") from error


def _weights(contents: Contents, loaded: Loaded, cleaned: Classifier, place: Path) -> list[str]:
    original = read(contents)
    new, save, notes = _prepared(contents, original, loaded, cleaned.net.net)
    save(place)
    written = reread.tensors(place, original.prefix, new, ordered=contents.format != "safetensors")
    reread.answers(written, loaded, cleaned)
    return notes


def _prepared(
    contents: Contents, original: Weights, loaded: Loaded, net: nn.Module
) -> tuple[Tensors, Callable[[Path], None], list[str]]:
    """The file's tensors with the net's values, what writes them, and what of the file cannot stay as it is."""
    new, notes = as_in_file(net.state_dict(), original.tensors, loaded.convert), list[str]()
    if loaded.inferred:
        notes.append(_INFERRED)
    whole = ProgramWeights.of_module(contents, original)
    if whole is not None:
        return new, lambda place: whole.save_all(place, new), notes
    if contents.format == "safetensors":
        named = {original.prefix + name: tensor for name, tensor in new.items()}
        return new, lambda place: tensors_file.save(place, contents, named), notes
    tree, more = checkpoint.filled(contents, original, net, new)
    if contents.format in ("pytorch legacy", "bare pickle"):
        more.append(f"the {contents.format} file is written in the zip form of `torch.save`")
    return new, lambda place: checkpoint.save(place, tree), [*notes, *more]


_INFERRED = (
    "the file does not hold the structure, which was inferred: looked at again, the cleaned one may be taken for "
    "another net, since its weights have moved (`--source` states the structure)"
)


def _graph(contents: Contents, loaded: Loaded, cleaned: Classifier, place: Path) -> list[str]:
    old, new = loaded.suspect.net.net.state_dict(), cleaned.net.net.state_dict()
    numbers = _GRAPHS[contents.format](contents, loaded.suspect.net.net)
    rounding = numbers.save(place, new, old, contents.sha256)
    reread.graph(contents, place, cleaned, rounding)
    return list(numbers.notes)


_Find = Callable[[Contents, nn.Module], WeightMap | KerasMap | ProgramWeights]
_GRAPHS: Mapping[str, _Find] = {  # files with a graph of their own, in whose arrays the net's numbers are looked for
    "keras": KerasMap.find,
    "onnx": WeightMap.find,
    "pt2": ProgramWeights.find,
    "torchscript": ProgramWeights.find,
}
