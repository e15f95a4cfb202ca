"""The model card of a model trained here: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from bdscan import __version__
from bdscan.facts.training_record import DataRecord
from bdscan.report import Report, Subject, training_text, words
from bdscan.report.numbers import plain
from bdscan.write.card import TAG_TRAINED, code, ended, front, prose, settings, table, takes

_NOT_SHOWN = (
    "That no backdoor is in it. What is said above holds for the probes and settings of the report; a trigger of "
    "another kind may have gone unseen, in the data as in the model.",
    "That the data are right. Nobody vouched for them: the accuracy was measured on images kept back from the very "
    "same data, wrong labels included.",
    "That the model is robust, private, fair or fit for a purpose.",
)


def card(report: Report) -> str:
    """What it was trained on and how, what stood out in the data, how to load it, and what all this does not show."""
    training = report.training
    if training is None:
        raise ValueError("nothing was trained, so there is nothing to put on a card")
    parts = [
        *front(TAG_TRAINED),
        f"# {code(PurePath(report.subject.path).stem)}",
        "",
        f"bdscan {__version__} trained this image classifier with {code(training.method)}. "
        f"Looked at afterwards: {prose(words.sentence(report))}.",
        "",
        *table("Training", ("", ""), _lines(report, training.data)),
        *settings(training_text.settings(training)),
        *_loading(report.subject),
    ]
    return ended(parts, _NOT_SHOWN)


def _lines(report: Report, data: DataRecord) -> Iterator[tuple[str, str]]:
    """Without the paths, which are private."""
    for label, line in training_text.lines(report):
        if label == "data":
            yield label, f"{data.images} images (sha256 {data.sha256} over pixels and labels)"
        elif label not in ("written to", "suspects"):
            yield label, line


def _loading(subject: Subject) -> Iterator[str]:
    name, arch = plain(PurePath(subject.path).name, 200).replace('"', "_"), plain(subject.arch or "", 200)
    yield from ("## How to load it", "", "```python", "from safetensors.torch import load_file")
    if subject.classes and subject.input and '"' not in arch:
        yield from ("from bdscan.load.arch.fresh import fresh", "")
        yield f'net = fresh("{arch}", {subject.classes}, {tuple(subject.input)}).eval()'
    yield from (f'net.load_state_dict(load_file("{name}"))', "```", "", takes(subject))
    names = ", ".join(code(name) for name in subject.names[:100])
    yield f"Classes, in the order of the logits: {names}{' ...' if len(subject.names) > 100 else ''}."
    yield ""
