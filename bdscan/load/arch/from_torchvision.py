"""torchvision's classifiers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from types import ModuleType

from torch import nn

from bdscan.facts.problem import Problem, unusable
from bdscan.load.arch.match import resized
from bdscan.load.nets.candidate import Candidate, Outline


def models() -> ModuleType:
    """`torchvision.models`, or a sentence on why not."""
    try:
        from torchvision import models
    except ImportError:
        raise Problem("torchvision is not installed", hint="pip install torchvision") from None
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        raise Problem(
            f"torchvision does not work with the installed torch ({error})",
            hint="install both from one place, for example `pip install torch torchvision "
            "--index-url https://download.pytorch.org/whl/cpu`",
        ) from None
    return models  # type: ignore[no-any-return]


def named(name: str, outline: Outline) -> Iterator[Candidate]:
    """The net of that name, in every variant that its tensors do not show."""
    library = models()
    if name not in library.list_models(module=library):
        near = ", ".join(library.list_models(module=library, include=f"*{name[:6]}*")[:5])
        hint = f"such as {near}" if near else "`torchvision.models.list_models(module=torchvision.models)` lists them"
        raise unusable(f"torchvision has no classifier named `{name}`", hint)
    for variant, settings in _settings(name, outline):
        yield Candidate(
            name=f"torchvision:{name}",
            build=partial(_build, name, outline, settings),
            sizes=(299 if name == "inception_v3" else settings.get("image_size", 224),),
            fixed_size=name.startswith(("vit_", "maxvit_")),
            variant=variant,
        )


def _build(name: str, outline: Outline, settings: dict[str, int | bool]) -> nn.Module:
    return resized(models().get_model(name, weights=None, **settings), outline)


def _settings(name: str, outline: Outline) -> Iterator[tuple[str, dict[str, int | bool]]]:
    if name in ("googlenet", "inception_v3"):
        aux = any(part.startswith(("aux1.", "AuxLogits.")) for part in outline)
        settings: dict[str, int | bool] = {"aux_logits": aux, "init_weights": False}
        yield "its inputs as they are", settings
        yield "its inputs normalised once more, as for torchvision's own weights", {**settings, "transform_input": True}
    elif name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        shape = outline.get("encoder.pos_embedding", ())
        side = math.isqrt(max(0, shape[1] - 1)) * patch if len(shape) == 3 else 224  # one position is the class token's
        yield "", {"image_size": side}
    else:
        yield "", {}
