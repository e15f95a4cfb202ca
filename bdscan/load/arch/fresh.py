"""A new net with random weights, by the name that `--arch` gives it."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from bdscan.facts.problem import Problem, unusable
from bdscan.load.arch import from_file, from_timm, from_torchvision
from bdscan.load.arch.match import count_outputs, keep_maps, resized
from bdscan.load.nets import families
from bdscan.load.nets.candidate import outline_of

FORMS = "wrn-16-1 and the like, torchvision:NAME, timm:NAME or FILE.py:factory"
Shape = tuple[int, int, int]


def fresh(spec: str, classes: int, shape: Shape) -> nn.Module:
    """The net that the spec names, for so many classes and images of this shape, in training mode.

    Its weights come from torch's global generator: seed that for the same net twice.
    """
    if ".py:" in spec:
        return _from_file(spec, classes, shape)
    kind, colon, name = spec.partition(":")
    build = {"torchvision": _torchvision, "timm": _timm}.get(kind) if colon else None
    return _checked((build or _built_in)(name if build else spec, classes, shape), spec, classes, shape)


def _built_in(spec: str, classes: int, shape: Shape) -> nn.Module:
    net = families.build(spec, classes, shape)
    if net is None:
        nearest = max(families.NAMES, key=lambda name: difflib.SequenceMatcher(None, spec, name).ratio())
        suggestion = f", did you mean `{nearest}`?" if difflib.get_close_matches(spec, [nearest], 1, 0.5) else ""
        raise unusable(f"`--arch {spec}` names no net that bdscan can build{suggestion}", FORMS)
    return net


def _torchvision(name: str, classes: int, shape: Shape) -> nn.Module:
    candidate = next(iter(from_torchvision.named(name, {})))  # raises, with the nearest names
    settings: dict[str, int | bool] = {"num_classes": classes}
    if name.startswith("vit_"):
        settings["image_size"] = shape[1]
    elif name in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}  # with auxiliary heads it answers with a tuple
    library = from_torchvision.models()
    return _of_channels(_built(lambda: library.get_model(name, weights=None, **settings), candidate.name), shape[0])


def _timm(name: str, classes: int, shape: Shape) -> nn.Module:
    candidate = from_timm.named(name, {})
    library = from_timm.library()
    settings: dict[str, int | bool] = {"pretrained": False, "num_classes": classes, "in_chans": shape[0]}
    if getattr(library.get_pretrained_cfg(name), "fixed_input_size", False):  # only these are built with an `img_size`
        settings["img_size"] = shape[1]
    return _built(lambda: library.create_model(name, **settings), candidate.name)


def _built(build: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        return build()
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise unusable(f"`{name}` cannot be built for these images: {error}") from None


def _of_channels(net: nn.Module, channels: int) -> nn.Module:
    """The one convolution that takes the images, for images of another depth."""
    stem = next((name for name, part in net.named_modules() if isinstance(part, nn.Conv2d)), None)
    outline = outline_of(net.state_dict())
    if stem is None or outline[f"{stem}.weight"][1] == channels:
        return net
    shape = outline[f"{stem}.weight"]
    return resized(net, {**outline, f"{stem}.weight": (shape[0], channels, *shape[2:])})


def _from_file(spec: str, classes: int, shape: Shape) -> nn.Module:
    """The user's factory, called in the first way that gives so many logits."""
    problem = None
    for candidate in from_file.candidates(spec, {}, classes):
        try:
            return _checked(candidate.build(), spec, classes, shape)
        except Problem as checked:
            problem = problem or checked
    assert problem is not None  # a factory that cannot be called at all is a problem of its own
    raise problem


def _checked(net: nn.Module, spec: str, classes: int, shape: Shape) -> nn.Module:
    size = "x".join(map(str, shape))
    answers = count_outputs(net, shape)
    if answers is None:
        raise unusable(f"`{spec}` takes no images of {size} (channels, height, width)")
    if answers != classes:
        raise unusable(f"`{spec}` answers with {answers} logits, but the data have {classes} classes")
    keep_maps(net)
    return net.train()
