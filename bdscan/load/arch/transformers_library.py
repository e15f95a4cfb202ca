"""Classifiers of images as Hugging Face's transformers builds them, where it is installed; no code from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.arch.match import without_memory
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate
from bdscan.load.pickle.effects import quoted

_FOREIGN = ("timm_wrapper", "shieldgemma2")  # nets of another library, and one that answers about text
# What a configuration must not set: other code, other files, other arithmetic than that of the net.
_NOT_OF_THE_NET = re.compile(
    r"_.*|auto_map|\w*backbone\w*|\w*pretrained\w*|quantization_config|\w*attn_implementation\w*|\w*kernel_config\w*|"
    r"use_kernels|(torch_)?dtype|return_dict|output_\w+|architectures|transformers_version|"
    r"id2label|label2id"
)
_MAX_NUMBER = 1 << 18  # in a configuration: the largest are sizes of vocabularies
_MAX_DEPTH = 1000  # layers, blocks or stages; the library makes lists of them before any tensor
_DEPTH = re.compile(r"\w*(layers|depths?|blocks|stages|repeats)\w*")
_MAX_LISTED = 100  # numbers in a row
_MAX_TENSORS = 10_000  # of a net; the largest classifiers have some two thousand
_USUAL = 224  # pixels a side, where the configuration states none


def candidate(kind: str, config: Mapping[str, object]) -> Candidate:
    """The net that `config.json` describes, of a class that the library lists as a classifier of images."""
    library = _library(kind)
    model_type = config.get("model_type")
    listed = _classes(library).get(str(model_type), ())
    if not isinstance(model_type, str) or model_type in _FOREIGN or kind not in listed:
        message = f"`config.json` asks for {quoted(kind)}, which transformers has no classifier of images of"
        raise Problem(message, hint="export the net to ONNX")
    sides = config.get("image_size")
    side = max(sides) if isinstance(sides, list) and sides and all(isinstance(n, int) for n in sides) else sides
    build = partial(_build, library, kind, model_type, config)
    return Candidate(
        name=kind,
        build=build,
        convert=_renaming(kind, build),
        sizes=(side if isinstance(side, int) else _USUAL,),
        fixed_size=isinstance(side, int),
    )


def _library(kind: str) -> ModuleType:
    try:
        import transformers
    except ImportError:
        message = f"`config.json` asks for {quoted(kind)}, which needs transformers, and that is not installed"
        raise Problem(message, hint='pip install "bdscan[transformers]", or export the net to ONNX') from None
    module: ModuleType = transformers
    return module


def _classes(library: ModuleType) -> dict[str, tuple[str, ...]]:
    names = library.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return {key: (value,) if isinstance(value, str) else tuple(value) for key, value in names.items()}


def _build(library: ModuleType, kind: str, model_type: str, config: Mapping[str, object]) -> nn.Module:
    made: Any = library.CONFIG_MAPPING[model_type]
    known = made().to_dict()
    stated = {key: value for key, value in config.items() if key in known}
    names = config.get("id2label")
    count = config.get("num_labels") or (len(names) if isinstance(names, Mapping) else 0)
    if count:
        stated["num_labels"] = count
    settings = _settings(stated)
    try:
        described = made(**settings)
    except Exception as error:  # noqa: BLE001 - each release has its own errors for a setting that is none
        raise Problem(f"transformers cannot read the `config.json` of this {kind}: {quoted(str(error))}") from None
    net: nn.Module = _answering_with_logits(getattr(library, kind))(described)
    return net


def _settings(table: Mapping[str, object]) -> Mapping[str, object]:
    """What a configuration says of the net; a `Problem` for numbers that no net has."""
    settings = []
    for key, value in table.items():
        most = _MAX_DEPTH if _DEPTH.fullmatch(key) else _MAX_NUMBER
        numbers = value if isinstance(value, list) else [value]
        outsize = any(isinstance(number, int | float) and not abs(number) <= most for number in numbers)
        if outsize or len(numbers) > _MAX_LISTED:
            raise Problem(f"`config.json` has {quoted(key)} out of all proportion")
        if not _NOT_OF_THE_NET.fullmatch(key):
            settings.append((key, _settings(value) if isinstance(value, dict) else value))
    return dict(settings)


def _renaming(kind: str, build: Callable[[], nn.Module]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """From the names that the library saves to those that it builds: later releases call many layers otherwise."""
    try:
        net = without_memory(Candidate(name=kind, build=build), _MAX_TENSORS)
        from transformers.core_model_loading import revert_weight_conversion
    except (ImportError, *NOT_SUCH_A_NET):  # before release 5 they are the same
        return dict
    state = net.state_dict()
    built = {id(tensor): name for name, tensor in state.items()}
    names = {saved: built.get(id(tensor), saved) for saved, tensor in revert_weight_conversion(net, state).items()}

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        known = tensors.keys() <= state.keys()  # saved without the library's own method
        return {name if known else names.get(name, name): tensor for name, tensor in tensors.items()}

    return convert


def _answering_with_logits(kind: Any) -> Any:
    """The library's class, but what it answers is the logits alone."""

    def forward(self: nn.Module, pixels: Tensor) -> Tensor:
        logits: Tensor = kind.forward(self, pixel_values=pixels, return_dict=True).logits
        return logits

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": __name__})
