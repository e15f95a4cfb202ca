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

# How many tensors each has, without BatchNorm's counters: a few nets to build rather than eighty. ResNets and VGGs are
# recognised by our own families. With and without the auxiliary heads: GoogLeNet and Inception.
TENSORS: dict[int, str] = {
    16: "alexnet",
    52: "squeezenet1_0 squeezenet1_1",
    152: "vit_b_16 vit_b_32",
    182: "convnext_tiny",
    185: "swin_t",
    210: "mobilenet_v3_small",
    233: "swin_v2_t",
    262: "mobilenet_v2 mnasnet1_0 mnasnet0_5 mnasnet0_75 mnasnet1_3",
    266: "mobilenet_v3_large",
    267: "regnet_x_800mf",
    282: "shufflenet_v2_x1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_5 shufflenet_v2_x2_0",
    287: "googlenet",
    293: "regnet_y_800mf",
    296: "vit_l_16 vit_l_32",
    297: "regnet_x_1_6gf",
    305: "googlenet",
    311: "efficientnet_b0",
    331: "regnet_y_400mf",
    344: "convnext_small convnext_base convnext_large",
    350: "regnet_y_8gf",
    353: "swin_s swin_b",
    357: "regnet_x_400mf regnet_x_16gf",
    369: "regnet_y_16gf",
    372: "regnet_x_8gf regnet_x_32gf",
    392: "vit_h_14",
    402: "regnet_x_3_2gf",
    407: "regnet_y_32gf",
    426: "regnet_y_3_2gf",
    439: "efficientnet_b1 efficientnet_b2",
    449: "swin_v2_s swin_v2_b",
    472: "inception_v3",
    484: "inception_v3",
    496: "efficientnet_b3",
    540: "regnet_y_1_6gf regnet_y_128gf",
    548: "maxvit_t",
    606: "densenet121",
    610: "efficientnet_b4",
    672: "efficientnet_v2_s",
    738: "efficientnet_b5",
    806: "densenet161",
    846: "densenet169",
    852: "efficientnet_b6",
    963: "efficientnet_v2_m",
    1006: "densenet201",
    1037: "efficientnet_b7",
    1331: "efficientnet_v2_l",
}


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


def candidates(outline: Outline) -> Iterator[Candidate]:
    """The nets with so many tensors."""
    for name in TENSORS.get(len(outline), "").split():
        yield from named(name, outline)


def near(outline: Outline) -> Iterator[Candidate]:
    """The net whose number of tensors is closest: for telling what is wrong."""
    count = min(TENSORS, key=lambda count: abs(count - len(outline)))
    if count != len(outline) and abs(count - len(outline)) < count / 10:
        try:
            yield from named(TENSORS[count].split()[0], outline)
        except Problem:  # without torchvision there is less to tell, but still something
            return


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
