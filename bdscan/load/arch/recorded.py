"""What a pickled module says its layers are, against the net that was found for its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.arch.match import FilledNet
from bdscan.load.pickle.effects import quoted

Layers = Mapping[str, tuple[str, Mapping[str, object]]]  # by its dotted name, a layer's class and its attributes
_SETTINGS = (
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "ceil_mode", "output_size"),
    *("eps", "negative_slope", "approximate", "num_heads"),
)
_NO_EFFECT = ("Dropout", "Dropout1d", "Dropout2d", "Identity", "Flatten", "Sequential")  # on a picture's answer
_IN_ALL = "transform_input"
_OF_TORCH = "torch.nn.modules."
_BARE = "torch.nn.modules.module.Module"  # somebody's container, which says nothing of what it does


def agreeing(fitting: Sequence[FilledNet], layers: Layers, tensors: Mapping[str, Tensor], path: str) -> list[FilledNet]:
    """The nets that are what the file says of its layers; a `Problem` where none of them is."""
    against = [_contradiction(filled, layers, tensors) for filled in fitting]
    left = [filled for filled, layer in zip(fitting, against, strict=True) if layer is None]
    if fitting and not left:
        layer = against[0] or ""
        kind = layers[layer][0].rpartition(".")[2]
        message = f"the tensors in `{path}` are those of {fitting[0].candidate.name}, but not its layer {quoted(layer)}"
        hint = "give the net's own code with `--arch FILE.py:factory`"
        raise Problem(f"{message}, which is {quoted(kind)} with other settings or in another's place", hint=hint)
    if len(left) == 1 < len(fitting):  # it is what the file says, and so nothing is left open
        candidate = left[0].candidate
        name = ", ".join(filter(None, (candidate.name, candidate.variant)))
        return [replace(left[0], candidate=replace(candidate, name=name, variant=""))]
    return left


def _contradiction(filled: FilledNet, layers: Layers, tensors: Mapping[str, Tensor]) -> str | None:
    """The first layer of the file that is another one in the net; layers that only one of them names are left open."""
    convert = filled.candidate.convert
    paths = {path: path for path in layers} if convert is None else _paths(convert(dict(tensors)), tensors)
    parts = dict(filled.net.named_modules())
    for path, (kind, attributes) in layers.items():
        part = parts.get(paths.get(path, path if not path else "?"))
        if part is not None and _differs(part, kind, attributes):
            return path
    return None


def _paths(converted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Where the layers with tensors have gone."""
    old = {id(tensor): name.rpartition(".")[0] for name, tensor in tensors.items()}
    return {old[id(tensor)]: name.rpartition(".")[0] for name, tensor in converted.items() if id(tensor) in old}


def _differs(part: nn.Module, kind: str, attributes: Mapping[str, object]) -> bool:
    ours, theirs = type(part).__name__, kind.rpartition(".")[2]
    if _IN_ALL in attributes and hasattr(part, _IN_ALL):  # of Inception and GoogLeNet themselves
        return bool(attributes[_IN_ALL]) is not bool(getattr(part, _IN_ALL))
    if (
        kind == _BARE
        or not (kind.startswith(_OF_TORCH) and type(part).__module__.startswith(_OF_TORCH))
        or any(part.children())
    ):
        return False
    if ours != theirs:
        return ours not in _NO_EFFECT or theirs not in _NO_EFFECT
    both = [name for name in _SETTINGS if name in attributes and hasattr(part, name)]
    return any(_plain(getattr(part, name)) != _plain(attributes[name]) for name in both)


def _plain(value: object) -> object:
    """A number for both sides is that number twice."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value
