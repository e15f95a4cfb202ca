"""Layers of torch.nn out of the attributes that a pickle holds of them: those alone that are known to the letter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from bdscan.load.pickle.effects import quoted
from bdscan.load.pickle.records import CallRecord, mapping, named

_MAX_FIGURE = 1 << 20  # of a setting; no kernel, width or side comes near
_MAX_SIDES = 4
_NOTHING = object()  # which no setting is
# What every module has, and what acts only when it is trained, saved or loaded.
_OF_ALL = frozenset(
    (
        *("training", "dump_patches", "call_super_init", "_version", "_backend", "_compiled_call_impl"),
        *("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "_is_full_backward_hook"),
        *("_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks"),
        *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    )
)
_HOOKS = tuple(
    f"_forward_{name}"
    for name in ("hooks", "pre_hooks", "hooks_with_kwargs", "hooks_always_called", "pre_hooks_with_kwargs")
)


class NotVouched(ValueError):
    """What stands in the way of building a module again, as part of a sentence."""


@dataclass(frozen=True)
class _Kind:
    """How a layer is made again."""

    make: Callable[..., nn.Module]
    settings: tuple[str, ...] = ()  # its attributes that are arguments of the same name
    only: Mapping[str, object] = field(default_factory=dict)  # attributes that may hold nothing else
    derived: tuple[str, ...] = ()  # attributes that follow from others, or mean nothing
    bias: bool = False  # whether there may be one, which its parameters tell


def _kind(make: Callable[..., nn.Module], settings: str = "", *, bias: bool = False, derived: str = "") -> _Kind:
    return _Kind(make, tuple(settings.split()), derived=tuple(derived.split()), bias=bias)


def _pool(make: Callable[..., nn.Module], settings: str) -> _Kind:
    return _Kind(make, tuple(settings.split()), {"return_indices": False})


_CONV = _Kind(
    nn.Conv2d,
    tuple(["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]),
    {"transposed": False, "output_padding": (0, 0)},
    ("_padding_repeated_twice", "_reversed_padding_repeated_twice"),
    bias=True,
)
_BATCH_NORM = "num_features eps momentum affine track_running_stats"
_KINDS: Mapping[str, _Kind] = {
    "AdaptiveAvgPool2d": _pool(nn.AdaptiveAvgPool2d, "output_size"),
    "AdaptiveMaxPool2d": _pool(nn.AdaptiveMaxPool2d, "output_size"),
    "AlphaDropout": _kind(nn.AlphaDropout, "p inplace"),
    "AvgPool2d": _kind(nn.AvgPool2d, "kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    "BatchNorm1d": _kind(nn.BatchNorm1d, _BATCH_NORM),
    "BatchNorm2d": _kind(nn.BatchNorm2d, _BATCH_NORM),
    "CELU": _kind(nn.CELU, "alpha inplace"),
    "Conv2d": _CONV,
    "Dropout": _kind(nn.Dropout, "p inplace"),
    "Dropout2d": _kind(nn.Dropout2d, "p inplace"),
    "ELU": _kind(nn.ELU, "alpha inplace"),
    "FeatureAlphaDropout": _kind(nn.FeatureAlphaDropout, "p inplace"),
    "Flatten": _kind(nn.Flatten, "start_dim end_dim"),
    "GELU": _kind(nn.GELU, "approximate"),
    "GroupNorm": _kind(nn.GroupNorm, "num_groups num_channels eps affine"),
    "Hardsigmoid": _kind(nn.Hardsigmoid, "inplace"),
    "Hardswish": _kind(nn.Hardswish, "inplace"),
    "Hardtanh": _kind(nn.Hardtanh, "min_val max_val inplace"),
    "Identity": _kind(nn.Identity),
    "InstanceNorm2d": _kind(nn.InstanceNorm2d, _BATCH_NORM),
    "LayerNorm": _kind(nn.LayerNorm, "normalized_shape eps elementwise_affine", bias=True),
    "LeakyReLU": _kind(nn.LeakyReLU, "negative_slope inplace"),
    "Linear": _kind(nn.Linear, "in_features out_features", bias=True),
    "LocalResponseNorm": _kind(nn.LocalResponseNorm, "size alpha beta k"),
    "LogSoftmax": _kind(nn.LogSoftmax, "dim"),
    "MaxPool2d": _pool(nn.MaxPool2d, "kernel_size stride padding dilation ceil_mode"),
    "Mish": _kind(nn.Mish, "inplace"),
    "PReLU": _kind(nn.PReLU, "num_parameters init"),
    "ReLU": _kind(nn.ReLU, "inplace", derived="threshold value"),  # as PyTorch 0.4 wrote it
    "ReLU6": _kind(nn.ReLU6, "inplace", derived="min_val max_val"),
    "ReflectionPad2d": _kind(nn.ReflectionPad2d, "padding"),
    "ReplicationPad2d": _kind(nn.ReplicationPad2d, "padding"),
    "SELU": _kind(nn.SELU, "inplace"),
    "SiLU": _kind(nn.SiLU, "inplace"),
    "Sigmoid": _kind(nn.Sigmoid),
    "Softmax": _kind(nn.Softmax, "dim"),
    "Softplus": _kind(nn.Softplus, "beta threshold"),
    "Softsign": _kind(nn.Softsign),
    "Tanh": _kind(nn.Tanh),
    "ZeroPad2d": _Kind(nn.ZeroPad2d, ("padding",), {"value": 0}),
}


def layer_kind(module: CallRecord) -> str:
    """The name of its class in torch.nn; empty where it is of another house."""
    maker = named(module.maker)
    ours = maker is not None and maker.module.startswith("torch.nn.modules.")
    return maker.name if ours and maker is not None else ""


def attributes(module: CallRecord) -> Mapping[object, object]:
    """Its own, once it is known that nothing is hung into it that would act when it runs."""
    state = module.state if isinstance(module.state, dict) else {}
    hook = next((name for name in _HOOKS if mapping(state.get(name))), None)
    if hook is not None:
        raise NotVouched(f"it puts functions of its own into `{_class(module)}`")
    if "forward" in state or "__class__" in state:
        raise NotVouched(f"it gives `{_class(module)}` a way to run of its own")
    return {key: value for key, value in state.items() if key not in _OF_ALL and key not in _HOOKS}


def layer(module: CallRecord) -> nn.Module:
    """The same layer, not yet filled."""
    name = layer_kind(module)
    kind, own = _KINDS.get(name), attributes(module)
    if kind is None:
        raise NotVouched(f"nobody vouches for its layer {quoted(_class(module))}")
    for key, value in own.items():
        allowed = key in kind.settings or key in kind.derived or _plain(value) == kind.only.get(str(key), _NOTHING)
        if not allowed and not (key in ("in_features", "out_features") and _number(value)):
            raise NotVouched(f"its `{name}` has a setting {quoted(key)} that is not known")
    settings = {key: _setting(name, key, own[key]) for key in kind.settings if key in own}
    if kind.bias:
        settings["bias"] = (mapping(_state(module).get("_parameters")) or {}).get("bias") is not None
    try:
        made = kind.make(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotVouched(f"its `{name}` cannot be made from its settings") from error
    for key in kind.derived:
        if key in own and hasattr(made, key) and _plain(own[key]) != _plain(getattr(made, key)):
            raise NotVouched(f"its `{name}` has a setting {quoted(key)} that contradicts the others")
    return made


def children(module: CallRecord) -> dict[str, CallRecord]:
    """Its parts in the order in which they were registered; those that were left empty are none."""
    parts = mapping(_state(module).get("_modules")) or {}
    return {key: part for key, part in parts.items() if isinstance(key, str) and isinstance(part, CallRecord)}


def own_tensors(module: CallRecord) -> bool:
    """Whether it holds parameters or buffers itself."""
    groups = [mapping(_state(module).get(name)) or {} for name in ("_parameters", "_buffers")]
    return any(value is not None for group in groups for value in group.values())


def _state(module: CallRecord) -> Mapping[object, object]:
    return module.state if isinstance(module.state, dict) else {}


def _class(module: CallRecord) -> object:
    return named(module.maker) or "something"


def _setting(name: str, key: str, value: object) -> object:
    """A number, a flag, a short word, or a few numbers."""
    plain = _plain(value)
    parts = plain if isinstance(plain, tuple) else (plain,)
    if len(parts) > _MAX_SIDES or not all(part is None or isinstance(part, str) or _number(part) for part in parts):
        raise NotVouched(f"its `{name}` has a setting {quoted(key)} that is out of the ordinary")
    return plain


def _plain(value: object) -> object:
    """A list, or the record of a `torch.Size`, as a tuple."""
    value = value.first if isinstance(value, CallRecord) else value
    return tuple(value) if isinstance(value, list) else value


def _number(value: object) -> bool:
    return isinstance(value, bool | int | float) and abs(value) < _MAX_FIGURE
