"""The card of a cleaned model, or of one trained here: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from bdscan import __version__
from bdscan.facts.training_record import DataRecord
from bdscan.report import Report, Subject, training_text, treatment_text, words
from bdscan.report.numbers import plain

TAG = "backdoor-purified"
TAG_TRAINED = "backdoor-checked"  # on the cards of models trained here
_LOADING = {
    "safetensors": 'from safetensors.torch import load_file\n\nnet.load_state_dict(load_file("{name}"))',
    "onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}")',
}
_TORCH = 'import torch\n\ncheckpoint = torch.load("{name}", weights_only=True, map_location="cpu")'
_NOT_SHOWN = (
    "That no backdoor is left. What is said above holds for the trigger that bdscan recovered, which only comes near "
    "the real one, and for the probes and settings of its report; a trigger of another kind may have gone unseen.",
    "That the model is accurate elsewhere: clean accuracy was measured on the clean images that were given, and what "
    "the model does on rare classes or groups may have changed.",
    "That the model is robust, private, fair or fit for a purpose. Its licence is that of the original.",
)
_NOT_SHOWN_TRAINED = (
    "That no backdoor is in it. What is said above holds for the probes and settings of the report; a trigger of "
    "another kind may have gone unseen, in the data as in the model.",
    "That the data are right. Nobody vouched for them: the accuracy was measured on images kept back from the very "
    "same data, wrong labels included.",
    "That the model is robust, private, fair or fit for a purpose.",
)


def card(report: Report) -> str:
    """What was done to which file, what changed, how to load the result, and what all this does not show."""
    treatment, subject = report.treatment, report.subject
    if treatment is None:
        raise ValueError("nothing was treated, so there is nothing to put on a card")
    digest = [f"base_model_sha256: {_quoted(subject.sha256)}"] if subject.sha256 else []
    sentence = words.sentence(report)
    notes = [f"- {_prose(note)}" for note in treatment_text.notes(report)]
    checks = ((check.word, check.message) for check in treatment_text.checks(report))
    parts = [
        *_front(TAG, f"base_model: {_quoted(_stem(report))}", "base_model_relation: finetune", *digest),
        f"# {_code(_stem(report))}, purified",
        "",
        f"bdscan {__version__} purified this image classifier with "
        f"{_code(treatment.method)}. The weights are new, the architecture is that of the original.",
        "",
        f"{_prose(sentence[:1].upper() + sentence[1:])}.",
        "",
        *("## Original", "", f"- name: {_code(PurePath(subject.path).name)}"),
        *([f"- sha256: {_code(subject.sha256)}"] if subject.sha256 else []),
        f"- form: {_code(subject.format or 'unknown')}",
        f"- model: {_code(words.model(report))}",
        f"- clean images to work with and to judge by: {report.images or 'unknown'}",  # their path is private
        "",
        *_table("Before and after", ("", "before", "after"), treatment_text.measured(report)),
        *(("## What was done", "", *notes, "") if notes else ()),
        *_table("Checks", ("", "check"), checks),
        *_settings(treatment.settings.items()),
        *_loading(report),
    ]
    return _ended(parts, _NOT_SHOWN)


def new_card(report: Report) -> str:
    """What it was trained on and how, what stood out in the data, how to load it, and what all this does not show."""
    training = report.training
    if training is None:
        raise ValueError("nothing was trained, so there is nothing to put on a card")
    parts = [
        *_front(TAG_TRAINED),
        f"# {_code(PurePath(report.subject.path).stem)}",
        "",
        f"bdscan {__version__} trained this image classifier with {_code(training.method)}. "
        f"Looked at afterwards: {_prose(words.sentence(report))}.",
        "",
        *_table("Training", ("", ""), _lines(report, training.data)),
        *_settings(training.settings.items()),
        *_loading_new(report.subject),
    ]
    return _ended(parts, _NOT_SHOWN_TRAINED)


def _lines(report: Report, data: DataRecord) -> Iterator[tuple[str, str]]:
    """Without the paths, which are private."""
    for label, line in training_text.lines(report):
        if label == "data":
            yield label, f"{data.images} images (sha256 {data.sha256} over pixels and labels)"
        elif label not in ("written to", "suspects"):
            yield label, line


def _loading_new(subject: Subject) -> Iterator[str]:
    name, arch = plain(PurePath(subject.path).name, 200).replace('"', "_"), plain(subject.arch or "", 200)
    yield from ("## How to load it", "", "```python", "from safetensors.torch import load_file")
    if subject.classes and subject.input and '"' not in arch:
        yield from ("from bdscan.load.arch.fresh import fresh", "")
        yield f'net = fresh("{arch}", {subject.classes}, {tuple(subject.input)}).eval()'
    yield from (f'net.load_state_dict(load_file("{name}"))', "```", "", _takes(subject))
    names = ", ".join(_code(name) for name in subject.names[:100])
    yield f"Classes, in the order of the logits: {names}{' ...' if len(subject.names) > 100 else ''}."
    yield ""


def _front(tag: str, *more: str) -> Sequence[str]:
    """YAML; every text in it is quoted the JSON way, which YAML reads too. No licence: it is not ours to give."""
    kind = "image-classification"
    return ["---", "tags:", "- bdscan", f"- {tag}", f"- {kind}", f"pipeline_tag: {kind}", *more, "---", ""]


def _ended(parts: Sequence[str], not_shown: Iterable[str]) -> str:
    return "\n".join([*parts, "## What this does not show", "", *(f"- {text}" for text in not_shown)]) + "\n"


def _settings(rows: Iterable[tuple[str, object]]) -> Iterator[str]:
    return _table("Settings", ("setting", "value"), ((f"`{name}`", str(value)) for name, value in rows))


def _takes(subject: Subject) -> str:
    size = "x".join(map(str, subject.input)) if subject.input else "unknown"
    return f"Input: {size} (channels, height, width), normalisation {_code(subject.normalize or 'unknown')}."


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Nothing, where there are no rows."""
    shown = [" | ".join(map(_prose, row)) for row in rows]
    if shown:
        yield from (f"## {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}")
        yield from (*(f"| {row} |" for row in shown), "")


def _loading(report: Report) -> Sequence[str]:
    subject, output = report.subject, report.treatment.output if report.treatment else None
    name = PurePath(str(output)).name if output else "MODEL"
    snippet = next((text for form, text in _LOADING.items() if (subject.format or "").startswith(form)), _TORCH)
    return [
        "## How to load it",
        "",
        "Its tensors have the names, types and shapes of the original's, so the code that loads those loads these.",
        "",
        "```python",
        snippet.format(name=re.sub(r'[\\"`]', "_", plain(name, 200))),
        "```",
        "",
        _takes(subject),
        "",
    ]


def _stem(report: Report) -> str:
    """The original's name in the letters that model hubs allow."""
    return re.sub(r"[^\w.-]+", "-", PurePath(report.subject.path).name, flags=re.ASCII).strip("-.")[:96] or "model"


def _quoted(text: str) -> str:
    return json.dumps(plain(text, 300))


def _code(value: object) -> str:
    """A stranger's text, in which nothing is a link, a tag or a heading."""
    inner = plain(value, 400).replace("`", "'").replace("|", "/").strip()
    return f"`{inner}`" if inner else "-"


def _prose(text: str) -> str:
    """Words as words, literals in backticks as code."""
    parts = plain(text, 1000).split("`")
    return "".join(
        _code(part) if i % 2 else re.sub(r"([\\*_\[\]<>~#&@|])", r"\\\1", part) for i, part in enumerate(parts)
    )
