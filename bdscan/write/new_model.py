"""Writes a model that was trained here: its weights and its card, whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bdscan import __version__
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.load.archive import safetensors_header
from bdscan.load.contents import survey
from bdscan.net.classifier import Classifier
from bdscan.write import reread, tensors_file
from bdscan.write.cleaned import Written, explained
from bdscan.write.file_tensors import Tensors
from bdscan.write.targets import check_new

_TYPES = {torch_name: name for name, (_, torch_name) in safetensors_header.TYPES.items()}


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A text file that appears together with the weights, or not at all."""

    path: Path
    text: str


def write_new(
    model: Classifier,
    output: Path,
    *,
    noted: Mapping[str, str],
    card: Callable[[str], str],
    beside: tuple[TextFile, ...] = (),
) -> Written:
    """The weights as safetensors, read again and compared before anything appears; `card` is given their SHA-256."""
    check_new(model.net.net, output)
    with explained(output, "make room or name another place"), AtomicFiles() as atomic:
        place = atomic.temporary(output)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.net.state_dict().items()}
        _save(place, state, {"format": "pt", "bdscan.version": __version__, **noted})
        _compared(place, model, state)
        sha256 = survey(place).sha256
        files = [output, output.with_suffix(".md")]
        atomic.temporary(files[1]).write_text(card(sha256), encoding="utf-8")
        for each in beside:
            atomic.temporary(each.path).write_text(each.text, encoding="utf-8")
            files.append(each.path)
    return Written(output=output, sha256=sha256, files=tuple(files))


def _save(place: Path, state: Tensors, noted: Mapping[str, str]) -> None:
    entries, offset = {}, 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        dtype, shape = _TYPES[str(tensor.dtype).removeprefix("torch.")], list(tensor.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    tensors_file.write(place, noted, entries, state.values())


def _compared(place: Path, model: Classifier, state: Tensors) -> None:
    """As a stranger would read it: the same tensors bit by bit, and with them the same answers."""
    written = reread.tensors(place, "", state, ordered=False)
    net = copy.deepcopy(model.net.net).cpu()
    net.load_state_dict(written)
    reread.compare(net, model, 0.0)
