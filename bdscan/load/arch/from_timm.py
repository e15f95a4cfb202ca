"""timm's nets, where timm is installed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from bdscan.facts.problem import Problem, unusable
from bdscan.load.arch.match import resized
from bdscan.load.nets.candidate import NOT_SUCH_A_NET, Candidate, Outline
from bdscan.load.pickle.effects import quoted

# What `create_model` takes for itself: a `config.json` must not lead it to other files or to another kind of net.
_NOT_OF_THE_NET = re.compile(
    r"pretrained\w*|checkpoint_path|cache_dir|model_name|scriptable|exportable|no_jit|\w*features\w*|\w*filter\w*"
)


def library() -> ModuleType:
    """`timm`, or a sentence on why not."""
    try:
        import timm
    except ImportError:
        raise Problem("this net needs timm, which is not installed", hint='pip install "bdscan[timm]"') from None
    except RuntimeError as error:  # timm imports torchvision
        message = f"timm does not work here: {error}"
        raise Problem(message, hint="install torch and torchvision from one place") from None
    module: ModuleType = timm
    return module


def installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("timm") is not None


def stated(name: str | None, outline: Outline) -> Iterator[Candidate]:
    """The net that the file names."""
    if name and installed() and library().is_model(name):
        yield named(name, outline)


def named(name: str, outline: Outline, settings: Mapping[str, Any] | None = None) -> Candidate:
    """The net of that name, at the image size that its position embeddings fit."""
    if not library().is_model(name):
        near = ", ".join(library().list_models(f"*{name[:8]}*")[:5])
        raise unusable(f"timm has no net named `{name}`", f"such as {near}" if near else "")
    settings = dict(settings or {})
    side = _side(outline)
    if side and "img_size" not in settings:
        settings["img_size"] = side
    size = library().get_pretrained_cfg(name)
    usual, stated = size.input_size[-1] if size else 224, settings.get("img_size")
    return Candidate(
        name=f"timm:{name}",
        build=partial(_build, name, outline, settings),
        sizes=(stated if isinstance(stated, int) else usual,),
        fixed_size=side is not None,
    )


def from_config(config: Mapping[str, object], outline: Outline) -> Iterator[Candidate]:
    """The net that a timm folder's `config.json` names."""
    name, settings = config.get("architecture"), config.get("model_args")
    settings = settings if isinstance(settings, dict) else {}
    if refused := [key for key in settings if _NOT_OF_THE_NET.fullmatch(key)]:
        raise Problem(f"`config.json` sets {quoted(refused[0])}, which is no part of a net")
    if isinstance(name, str):
        if not library().is_model(name):
            raise Problem(f"`config.json` asks for {quoted(name)}, which is no net of the installed timm")
        yield named(name, outline, settings)


def _build(name: str, outline: Outline, settings: Mapping[str, Any]) -> nn.Module:
    try:
        net = library().create_model(name, pretrained=False, **settings)
    except NOT_SUCH_A_NET as error:
        raise Problem(f"timm cannot build `{name}` with {quoted(settings)}: {quoted(str(error))}") from None
    return resized(net, outline)


def _side(outline: Outline) -> int | None:
    """Patches along a side times their size; one or two positions are tokens'."""
    positions, patches = outline.get("pos_embed", ()), outline.get("patch_embed.proj.weight", ())
    if len(positions) != 3 or len(patches) != 4:
        return None
    tokens = sum(name in outline for name in ("cls_token", "dist_token"))
    return math.isqrt(max(0, positions[1] - tokens)) * patches[-1]
