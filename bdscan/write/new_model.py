"""Writes a model that was trained here: its weights and its card, whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bdscan import __version__
from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import USAGE, Problem
from bdscan.load.assembly.tensors import read
from bdscan.load.contents import survey
from bdscan.net.classifier import Classifier
from bdscan.write import reread, tensors_file
from bdscan.write.targets import check_new
from bdscan.write.written import Written

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A text file that appears together with the weights, or not at all."""

    path: Path
    text: str


def ready(net: nn.Module, output: Path) -> None:
    """Raises `Problem` for what would keep `write_new` from writing there and can be known beforehand."""
    check_new(output, sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()))


def write_new(
    model: Classifier,
    output: Path,
    *,
    noted: Mapping[str, str],
    card: Callable[[str], str],
    beside: tuple[TextFile, ...] = (),
) -> Written:
    """The weights as safetensors, read again and compared before anything appears; `card` is given their SHA-256."""
    ready(model.net.net, output)
    try:
        with AtomicFiles() as atomic:
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
    except OSError as error:
        message = f"`{output}` cannot be written: {error.strerror or type(error).__name__}"
        raise Problem(message, hint="nothing was left behind; make room or name another place", status=USAGE) from error
    return Written(output=output, sha256=sha256, files=tuple(files), notes=())


def _save(place: Path, state: Mapping[str, Tensor], noted: Mapping[str, str]) -> None:
    entries, offset = {}, 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        dtype, shape = _DTYPE_NAMES[tensor.dtype], list(tensor.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    tensors_file.write(place, noted, entries, state.values())


def _compared(place: Path, model: Classifier, state: Mapping[str, Tensor]) -> None:
    """As a stranger would read it: the same tensors bit by bit, and with them the same answers."""
    written = read(survey(place)).tensors
    if written.keys() != state.keys() or not all(torch.equal(written[name], state[name]) for name in state):
        raise AssertionError("the written file holds other tensors than were meant")
    net = copy.deepcopy(model.net.net).cpu()
    net.load_state_dict(written)
    reread.compare(net, model, 0.0)
