"""What a file holds that is no image classifier, told by how its tensors are called."""

from __future__ import annotations

import re

from bdscan.load.nets.candidate import Outline

_LEAST = 3  # tensors that speak for a kind: one or two may be called so by chance
# Each kind, and names that only its nets have; the first that fits is told.
_KINDS = (
    (
        "a diffusion model",
        r"time_embed(ding)?\.|down_blocks\.\d+\.(resnets|attentions)\.|(input|output)_blocks\.\d+\.\d",
    ),
    ("a detector", r"rpn\.|roi_heads\.|anchor|bbox_embed\.|dfl\.conv|\.m\.\d+\.(weight|bias)$|\.cv[23]\.\d+\.2\."),
    (
        "a speech model",
        r"feature_extractor\.conv_layers\.\d+\.conv\.|pos_conv_embed|encoder_attn\.|conv_subsample|\bmel\w*\.",
    ),
    (
        "a language model",
        r"lm_head\.|(^|\.)wte\.|(^|\.)h\.\d+\.(attn|mlp)\.|word_embeddings\.|embed_tokens\.|token_embedding\.",
    ),
    (
        "a segmenter",
        r"(^|\.)(up_?conv|up_?sample|up)_?\d\.|segmentation_head\.|decode_head\.|aux_classifier\.|"
        r"decoder\.(blocks|block|layers?|up)\w*\.?\d",
    ),
    ("a generator or autoencoder", r"(^|\.)(decoder|generator|netG|G)\w*\.|to_rgb|mapping\.fc\d|discriminator\."),
)


def other_kind(outline: Outline) -> str | None:
    """Such as "a detector"; None where nothing shows that it is no classifier."""
    for kind, pattern in _KINDS:
        if sum(re.search(pattern, name) is not None for name in outline) >= _LEAST:
            return kind
    return "a generator or autoencoder" if _ends_wider(outline) else None


def _ends_wider(outline: Outline) -> bool:
    """Whether the last weights make pictures: one or three channels out of a convolution."""
    weights = [shape for shape in outline.values() if len(shape) in (2, 4)]
    maps = [shape for shape in weights if len(shape) == 4]
    if not weights or len(weights[-1]) != 4 or len(maps) < 3:
        return False
    last = maps[-1]
    return (last[0] in (1, 3) and last[2] > 1) or (last[1] in (1, 3) and last[2] > 2 and last[0] > 8)
