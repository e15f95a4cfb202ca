"""Folders as Hugging Face's transformers writes them: nets of ours or torchvision's, renamed, or of the library."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load import nets
from bdscan.load.arch import from_torchvision, transformers_library
from bdscan.load.arch.match import resized
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate, Outline, count_numbered, outline_of
from bdscan.load.pickle.effects import quoted

Tensors = dict[str, Tensor]


def candidates(config: Mapping[str, object], tensors: Tensors) -> Iterator[Candidate]:
    """The net that the folder's `config.json` describes; whatever cannot be rebuilt exactly is refused."""
    listed = config.get("architectures")
    kind = str(listed[0]) if isinstance(listed, list) and listed else "nothing"
    if "auto_map" in config:
        message = f"`config.json` asks for {quoted(kind)} by code of its own, which is never run"
        raise Problem(message, hint="export the net to ONNX")
    if kind not in _CONVERSIONS:
        yield transformers_library.candidate(kind, config)
        return
    convert, find = _CONVERSIONS[kind]
    try:
        renamed = convert(tensors)
    except NOT_SUCH_A_NET:
        raise Problem(f"the tensors are not those of the {kind} that `config.json` describes") from None
    for candidate in find(config, renamed):
        yield replace(candidate, convert=convert, name=f"{kind} ({candidate.name})")


def _resnets(config: Mapping[str, object], renamed: Tensors) -> Iterator[Candidate]:
    usual_settings = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
    for key, usual in usual_settings.items():
        if config.get(key, usual) != usual:
            message = f"`config.json` has `{key}` = {quoted(config[key])}, which bdscan cannot rebuild"
            raise Problem(message, hint="export to ONNX")
    yield from nets.candidates(outline_of(renamed))


def _transformers(config: Mapping[str, object], renamed: Tensors) -> Iterator[Candidate]:
    if config.get("hidden_act", "gelu") != "gelu":
        raise Problem("`config.json` asks for another activation than GELU", hint="export the net to ONNX")
    outline = outline_of(renamed)
    try:
        positions, patch = outline["encoder.pos_embedding"][1], outline["conv_proj.weight"][-1]
        settings = {
            "image_size": math.isqrt(positions - 1) * patch,  # one position is the class token's
            "patch_size": patch,
            "num_layers": count_numbered("encoder.layers.encoder_layer_{}.ln_1.weight", outline),
            "num_heads": int(str(config.get("num_attention_heads", 12))),
            "hidden_dim": outline["class_token"][-1],
            "mlp_dim": outline["encoder.layers.encoder_layer_0.mlp.0.weight"][0],
            "norm_layer": partial(nn.LayerNorm, eps=float(str(config.get("layer_norm_eps", 1e-12)))),
        }
    except (KeyError, IndexError, ValueError):
        raise Problem("the tensors are not those of the ViT that `config.json` describes") from None
    build = partial(_build_vit, settings, outline)
    yield Candidate(name="vision transformer", build=build, sizes=(int(str(settings["image_size"])),), fixed_size=True)


def _build_vit(settings: Mapping[str, object], outline: Outline) -> nn.Module:
    return resized(from_torchvision.models().VisionTransformer(**settings), outline)


_RESNET: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"^classifier\.1", "fc"),
    (r"resnet\.encoder\.stages\.(\d{1,9})\.layers\.", lambda at: f"layer{int(at[1]) + 1}."),
    (r"\.layer\.(\d{1,9})\.convolution", lambda at: f".conv{int(at[1]) + 1}"),
    (r"\.layer\.(\d{1,9})\.normalization", lambda at: f".bn{int(at[1]) + 1}"),
)


def _rename_resnet(tensors: Tensors) -> Tensors:
    renamed = dict(tensors)
    for pattern, ours in _RESNET:
        renamed = {re.sub(pattern, ours, name): tensor for name, tensor in renamed.items()}
    return renamed


_VIT = {
    "vit.embeddings.cls_token": "class_token",
    "vit.embeddings.position_embeddings": "encoder.pos_embedding",
    "vit.embeddings.patch_embeddings.projection": "conv_proj",
    "vit.layernorm": "encoder.ln",
    "layernorm_before": "ln_1",
    "layernorm_after": "ln_2",
    "attention.output.dense": "self_attention.out_proj",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.3",
}


def _rename_vit(tensors: Tensors) -> Tensors:
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if ".attention.attention." not in name:
            for theirs, ours in _VIT.items():
                name = name.replace(theirs, ours)
            name = re.sub(r"^classifier\.", "heads.head.", name)
            name = re.sub(r"vit\.encoder\.layer\.(\d+)\.", r"encoder.layers.encoder_layer_\1.", name)
            renamed[name] = tensor
    for name in [name for name in tensors if ".attention.attention.query." in name]:
        kind = name.rpartition(".")[2]
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if tensors.keys() >= set(parts):
            joined = torch.cat([tensors[part] for part in parts])
            renamed[f"encoder.layers.encoder_layer_{name.split('.')[3]}.self_attention.in_proj_{kind}"] = joined
    return renamed


_CONVERSIONS = {
    "ResNetForImageClassification": (_rename_resnet, _resnets),
    "ViTForImageClassification": (_rename_vit, _transformers),
}
