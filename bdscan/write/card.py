"""The model card of a cleaned model: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath

from bdscan import __version__
from bdscan.report import Report, treatment_text, words
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


def card(report: Report) -> str:
    """What was done to which file, what changed, how to load the result, and what all this does not show."""
    treatment = report.treatment
    if treatment is None:
        raise ValueError("nothing was treated, so there is nothing to put on a card")
    parts = [
        *_front(report),
        f"# {code(_stem(report))}, purified",
        "",
        f"bdscan {__version__} purified this image classifier with "
        f"{code(treatment.method)}. The weights are new, the architecture is that of the original.",
        "",
        f"{prose(_begun(words.sentence(report)))}.",
        "",
        *_original(report),
        *_changes(report),
        *_settings(treatment.settings),
        *_loading(report),
        "## What this does not show",
        "",
        *(f"- {text}" for text in _NOT_SHOWN),
    ]
    return "\n".join(parts) + "\n"


def _front(report: Report) -> Iterator[str]:
    """YAML; every text in it is quoted the JSON way, which YAML reads too. No licence: it is not ours to give."""
    yield "---"
    yield "tags:"
    yield "- bdscan"
    yield f"- {TAG}"
    yield "- image-classification"
    yield "pipeline_tag: image-classification"
    yield f"base_model: {_quoted(_stem(report))}"
    yield "base_model_relation: finetune"
    if report.subject.sha256:
        yield f"base_model_sha256: {_quoted(report.subject.sha256)}"
    yield "---"
    yield ""


def _original(report: Report) -> Iterator[str]:
    subject = report.subject
    yield "## Original"
    yield ""
    yield f"- name: {code(PurePath(subject.path).name)}"
    if subject.sha256:
        yield f"- sha256: {code(subject.sha256)}"
    yield f"- form: {code(subject.format or 'unknown')}"
    yield f"- model: {code(words.model(report))}"
    yield f"- clean images to work with and to judge by: {report.images or 'unknown'}"  # their path is private
    yield ""


def _changes(report: Report) -> Iterator[str]:
    yield from table("Before and after", ("", "before", "after"), treatment_text.measured(report))
    notes = treatment_text.notes(report)
    if notes:
        yield from ("## What was done", "", *(f"- {prose(note)}" for note in notes), "")
    yield from table("Checks", ("", "check"), ((check.word, check.message) for check in treatment_text.checks(report)))


def _settings(settings: Mapping[str, object]) -> Iterator[str]:
    rows = ((f"`{name}`", str(value)) for name, value in settings.items())
    yield from table("Settings", ("setting", "value"), rows)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Nothing, where there are no rows."""
    shown = [" | ".join(map(prose, row)) for row in rows]
    if shown:
        yield from (f"## {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}")
        yield from (*(f"| {row} |" for row in shown), "")


def _loading(report: Report) -> Iterator[str]:
    subject, output = report.subject, report.treatment.output if report.treatment else None
    name = PurePath(str(output)).name if output else "MODEL"
    snippet = next((text for form, text in _LOADING.items() if (subject.format or "").startswith(form)), _TORCH)
    yield "## How to load it"
    yield ""
    yield "Its tensors have the names, types and shapes of the original's, so the code that loads those loads these."
    yield ""
    yield "```python"
    yield snippet.format(name=re.sub(r'[\\"`]', "_", plain(name, 200)))
    yield "```"
    yield ""
    size = "x".join(map(str, subject.input)) if subject.input else "unknown"
    yield f"Input: {size} (channels, height, width), normalisation {code(subject.normalize or 'unknown')}."
    yield ""


def _stem(report: Report) -> str:
    """The original's name in the letters that model hubs allow."""
    return re.sub(r"[^\w.-]+", "-", PurePath(report.subject.path).name, flags=re.ASCII).strip("-.")[:96] or "model"


def _quoted(text: str) -> str:
    return json.dumps(plain(text, 300))


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def code(value: object) -> str:
    """A stranger's text, in which nothing is a link, a tag or a heading."""
    inner = plain(value, 400).replace("`", "'").replace("|", "/").strip()
    return f"`{inner}`" if inner else "-"


def prose(text: str) -> str:
    """Words as words, literals in backticks as code."""
    parts = plain(text, 1000).split("`")
    return "".join(
        code(part) if i % 2 else re.sub(r"([\\*_\[\]<>~#&@|])", r"\\\1", part) for i, part in enumerate(parts)
    )
