"""Keras' layers as nodes of a graph, each with the settings and the defaults that it has in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bdscan.facts.problem import Problem
from bdscan.load.onnx.graph import MADE_HERE, Node
from bdscan.load.pickle.effects import quoted

_OPSET = 17
_END = 1 << 31  # behind every side
_FIRST, _LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # from channels last to channels first, and back
_KERAS = ("", "keras", "tf_keras", "tensorflow", "builtins")


def refused(what: str) -> Problem:
    return Problem(f"it holds {what}", hint="export the model to ONNX")


@dataclass(frozen=True)
class Value:
    """A tensor on its way: its name, and its axes with that of the batch. Four: maps with their channels first."""

    name: str
    axes: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One entry of the configuration."""

    kind: str
    name: str
    config: Mapping[str, object]
    inbound: Sequence[Any]

    def ints(self, key: str, otherwise: Sequence[int] | None = None) -> list[int]:
        """A number for each side, or one for both."""
        value = self.config.get(key, otherwise)
        value = [value, value] if type(value) is int else value
        if not isinstance(value, list | tuple) or not all(type(number) is int for number in value):
            raise self.odd(key)
        return list(value)

    def number(self, keys: str, otherwise: float) -> float:
        """The first of these settings that is there."""
        value = next((self.config[key] for key in keys.split() if key in self.config), otherwise)
        value = value.get("value") if isinstance(value, dict) else value
        if not isinstance(value, int | float):
            raise self.odd(keys)
        return float(value)

    def odd(self, key: str) -> Problem:
        return refused(f"a {self.kind} ({quoted(self.name)}) with a setting {quoted(key)} that is out of the ordinary")


def of(entry: Mapping[str, object]) -> Layer:
    """Refuses by name what is no layer of Keras' own."""
    kind, config = str(entry.get("class_name")), entry.get("config")
    module, registered = str(entry.get("module") or ""), entry.get("registered_name")
    config = {"layers": config} if isinstance(config, list) else config
    if not isinstance(config, dict):
        raise refused(f"a layer {quoted(kind)} without settings")
    name = str(entry.get("name") or config.get("name") or "")
    if module.partition(".")[0] not in _KERAS or (registered not in (None, "", kind) and kind not in _KINDS):
        raise refused(f"the layer {quoted(name)} of a class of its owner, {quoted(f'{module}.{kind}')}")
    inbound = entry.get("inbound_nodes")
    return Layer(kind, name, config, inbound if isinstance(inbound, list) else ())


class Writer:
    """Gathers the nodes and the constants."""

    def __init__(self, arrays: Mapping[str, Tensor], keras: int) -> None:
        self.arrays, self.keras = arrays, keras
        self.nodes: list[Node] = []
        self.constants: dict[str, Tensor] = {}
        self.taken: set[str] = set()

    def write(
        self, layer: Layer, inputs: list[Value], extra: Mapping[str, object], found: Mapping[str, str] | Sequence[str]
    ) -> Value:
        if layer.config.get("data_format", "channels_last") not in ("channels_last", None):
            raise layer.odd("data_format")
        kind = _KINDS.get(layer.kind)
        if kind is None:
            raise refused(f"a layer {quoted(layer.kind)} ({quoted(layer.name)})")
        if not inputs:
            raise refused(f"a layer {quoted(layer.name)} that takes nothing")
        return kind(_Call(self, layer, inputs, extra, found))


@dataclass(frozen=True, eq=False)
class _Call:
    """One layer on its way into the graph."""

    writer: Writer
    layer: Layer
    inputs: list[Value]
    extra: Mapping[str, object]
    found: Mapping[str, str] | Sequence[str]

    @property
    def x(self) -> Value:
        return self.inputs[0]

    def add(self, op: str, inputs: Sequence[str], axes: int | None = None, /, **attributes: Any) -> Value:
        nodes = self.writer.nodes
        name = f"{self.layer.name}{MADE_HERE}{len(nodes)}"
        nodes.append(Node(self.layer.name, op, tuple(inputs), (name,), {"opset": _OPSET, **attributes}))
        return Value(name, self.x.axes if axes is None else axes)

    def constant(self, value: Tensor) -> str:
        name = f"{self.layer.name}{MADE_HERE}constant {len(self.writer.constants)}"
        self.writer.constants[name] = value
        return name

    def sizes(self, *numbers: int) -> str:
        return self.constant(torch.tensor(numbers))

    def arrays(self, *names: str) -> list[Tensor]:
        """The layer's own, by what each is called (`/` between names that it had in different versions), in order."""
        paths = []
        for i, name in enumerate(names):
            if isinstance(self.found, Mapping):
                path = next((self.found[each] for each in name.split("/") if each in self.found), None)
            else:
                path = self.found[i] if i < len(self.found) else None
            if path is None:
                raise Problem(f"the array {quoted(name)} of its layer {quoted(self.layer.name)} is missing")
            paths.append(path)
        self.writer.taken.update(paths)
        return [self.writer.arrays[path] for path in paths]

    def flag(self, key: str) -> bool:
        return self.layer.config.get(key, True) is not False

    def channels_last(self, value: Value) -> Value:
        return self.add("Transpose", [value.name], perm=list(_LAST)) if value.axes == 4 else value

    def channels_first(self, value: Value) -> Value:
        return self.add("Transpose", [value.name], 4, perm=list(_FIRST)) if value.axes == 4 else value

    def axis(self, value: object) -> int:
        """Of the tensor as it is here, for an axis as Keras counts it."""
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if type(value) is not int or not -self.x.axes < value < self.x.axes or value == 0:
            raise self.layer.odd("axis")
        place = value % self.x.axes
        return _FIRST.index(place) if self.x.axes == 4 else place

    def maps(self) -> None:
        if self.x.axes != 4:
            raise refused(f"a {self.layer.kind} ({quoted(self.layer.name)}) on something else than maps")

    def activated(self, value: Value) -> Value:
        return _activation(self, value, self.layer.config.get("activation"))


def _padding(call: _Call) -> Mapping[str, Any]:
    kind = call.layer.config.get("padding", "valid")
    if kind not in ("valid", "same"):
        raise call.layer.odd("padding")
    return {"auto_pad": "SAME_UPPER" if kind == "same" else "VALID"}


def _conv(call: _Call) -> Value:
    call.maps()
    bias = call.flag("use_bias")
    kernel, *rest = call.arrays("kernel", *["bias"] * bias)
    weights = [call.constant(part) for part in (kernel.permute(3, 2, 0, 1), *rest)]
    groups = call.layer.ints("groups", (1,))[:1][0]
    made = call.add("Conv", [call.x.name, *weights], group=groups, **_windows(call), **_padding(call))
    return call.activated(made)


def _windows(call: _Call) -> Mapping[str, Any]:
    return {"strides": call.layer.ints("strides", (1, 1)), "dilations": call.layer.ints("dilation_rate", (1, 1))}


def _deep(call: _Call, kernel: Tensor, bias: Sequence[Tensor]) -> Value:
    """Each channel by itself: its kernels stand one behind the other."""
    high, wide, width, times = kernel.shape
    weight = kernel.permute(2, 3, 0, 1).reshape(width * times, 1, high, wide)
    weights = [call.constant(part) for part in (weight, *bias)]
    return call.add("Conv", [call.x.name, *weights], group=width, **_windows(call), **_padding(call))


def _depthwise(call: _Call) -> Value:
    call.maps()
    kernel, *bias = call.arrays("depthwise_kernel/kernel", *["bias"] * call.flag("use_bias"))
    return call.activated(_deep(call, kernel, bias))


def _separable(call: _Call) -> Value:
    call.maps()
    deep, wide, *bias = call.arrays("depthwise_kernel", "pointwise_kernel", *["bias"] * call.flag("use_bias"))
    weights = [call.constant(part) for part in (wide.permute(3, 2, 0, 1), *bias)]
    return call.activated(call.add("Conv", [_deep(call, deep, ()).name, *weights]))


def _dense(call: _Call) -> Value:
    kernel, *bias = call.arrays("kernel", *["bias"] * call.flag("use_bias"))
    if call.x.axes == 4:  # at every position: a convolution of one
        weights = [call.constant(part) for part in (kernel.T[:, :, None, None], *bias)]
        return call.activated(call.add("Conv", [call.x.name, *weights]))
    made = call.add("MatMul", [call.x.name, call.constant(kernel)])
    return call.activated(call.add("Add", [made.name, call.constant(bias[0])]) if bias else made)


def _norm(call: _Call) -> Value:
    if call.axis(call.layer.config.get("axis", -1)) != (1 if call.x.axes == 4 else call.x.axes - 1) or call.x.axes == 3:
        raise call.layer.odd("axis")
    names = [name for name, flag in (("gamma", "scale"), ("beta", "center")) if call.flag(flag)]
    arrays = dict(zip(names, call.arrays(*names, "moving_mean", "moving_variance"), strict=False))
    mean, variance = call.arrays(*names, "moving_mean", "moving_variance")[-2:]
    parts = (arrays.get("gamma", torch.ones_like(mean)), arrays.get("beta", torch.zeros_like(mean)), mean, variance)
    epsilon = call.layer.number("epsilon", 1e-3)
    return call.add("BatchNormalization", [call.x.name, *map(call.constant, parts)], epsilon=epsilon)


def _layer_norm(call: _Call) -> Value:
    """Over the last axes, as Keras counts them."""
    given = call.layer.config.get("axis", -1)
    axes = sorted(axis % call.x.axes for axis in ([given] if type(given) is int else call.layer.ints("axis")))
    if not axes or axes != list(range(max(axes[0], 1), call.x.axes)) or call.layer.config.get("rms_scaling"):
        raise call.layer.odd("axis")
    names = [name for name, flag in (("gamma", "scale"), ("beta", "center")) if call.flag(flag)]
    arrays = dict(zip(names, call.arrays(*names), strict=True))
    if "gamma" not in arrays:
        raise call.layer.odd("scale")
    value, weights = call.channels_last(call.x), [call.constant(array) for array in arrays.values()]
    settings = {"axis": -len(axes), "epsilon": call.layer.number("epsilon", 1e-3)}
    return call.channels_first(call.add("LayerNormalization", [value.name, *weights], **settings))


def _pool(op: str) -> Callable[[_Call], Value]:
    def write(call: _Call) -> Value:
        call.maps()
        window = call.layer.ints("pool_size", (2, 2))
        strides = call.layer.ints("strides") if call.layer.config.get("strides") else window
        return call.add(op, [call.x.name], kernel_shape=window, strides=strides, **_padding(call))

    return write


def _global(op: str) -> Callable[[_Call], Value]:
    def write(call: _Call) -> Value:
        call.maps()
        pooled = call.add(op, [call.x.name])
        return pooled if call.layer.config.get("keepdims") else call.add("Flatten", [pooled.name], 2)

    return write


def _flatten(call: _Call) -> Value:
    return call.add("Flatten", [call.channels_last(call.x).name], 2)


def _reshape(call: _Call) -> Value:
    target = call.layer.ints("target_shape")
    made = call.add("Reshape", [call.channels_last(call.x).name, call.sizes(0, *target)], len(target) + 1)
    return call.channels_first(made)


def _permute(call: _Call) -> Value:
    dims = call.layer.ints("dims")
    if sorted(dims) != list(range(1, call.x.axes)):
        raise call.layer.odd("dims")
    return call.channels_first(call.add("Transpose", [call.channels_last(call.x).name], perm=[0, *dims]))


def _padded(call: _Call) -> Value:
    (top, bottom), (left, right) = _sides(call, "padding")
    return call.add("Pad", [call.x.name, call.sizes(0, 0, top, left, 0, 0, bottom, right)])


def _cropped(call: _Call) -> Value:
    (top, bottom), (left, right) = _sides(call, "cropping")
    ends = (-bottom or _END, -right or _END)
    return call.add("Slice", [call.x.name, call.sizes(top, left), call.sizes(*ends), call.sizes(2, 3)])


def _sides(call: _Call, key: str) -> list[list[int]]:
    call.maps()
    value = call.layer.config.get(key)
    pairs = [value, value] if type(value) is int else value
    pairs = [[each, each] if type(each) is int else each for each in pairs] if isinstance(pairs, list) else None
    sound = pairs and len(pairs) == 2 and all(len(pair) == 2 and min(pair) >= 0 for pair in pairs)
    if not sound or pairs is None:
        raise call.layer.odd(key)
    return pairs


def _of_many(op: str) -> Callable[[_Call], Value]:
    def write(call: _Call) -> Value:
        if len(call.inputs) < 2 or len({value.axes for value in call.inputs}) > 1:
            raise refused(f"a {call.layer.kind} ({quoted(call.layer.name)}) of tensors of different kinds")
        value = call.x
        for other in call.inputs[1:]:
            value = call.add(op, [value.name, other.name])
        return value

    return write


def _average(call: _Call) -> Value:
    return call.add("Div", [_of_many("Add")(call).name, call.constant(torch.tensor(float(len(call.inputs))))])


def _joined(call: _Call) -> Value:
    axis = call.axis(call.layer.config.get("axis", -1))
    return call.add("Concat", [value.name for value in call.inputs], axis=axis)


def _scaled(call: _Call) -> Value:
    scale, offset = (_figures(call, key, otherwise) for key, otherwise in (("scale", 1.0), ("offset", 0.0)))
    made = call.add("Mul", [call.x.name, call.constant(scale)])
    return call.add("Add", [made.name, call.constant(offset)]) if bool(offset.any()) else made


def _figures(call: _Call, key: str, otherwise: float) -> Tensor:
    """A number, or one for each channel."""
    value = call.layer.config.get(key, otherwise)
    if not isinstance(value, list):
        return torch.tensor(call.layer.number(key, otherwise))
    figures = torch.tensor(value, dtype=torch.float32).flatten()
    return figures[:, None, None] if call.x.axes == 4 else figures


def _standardised(call: _Call) -> Value:
    if call.layer.config.get("invert") or call.axis(call.layer.config.get("axis", -1)) != 1:
        raise call.layer.odd("axis")
    stated = [call.layer.config.get(key) for key in ("mean", "variance")]
    if None in stated:
        mean, variance = call.arrays("mean", "variance")
    else:
        mean, variance = (torch.tensor(value, dtype=torch.float32) for value in stated)
    mean, deviation = (part.flatten() for part in (mean, variance.sqrt().clamp(min=1e-7)))
    if call.x.axes == 4:
        mean, deviation = mean[:, None, None], deviation[:, None, None]
    moved = call.add("Sub", [call.x.name, call.constant(mean)])
    return call.add("Div", [moved.name, call.constant(deviation)])


def _activation(call: _Call, value: Value, given: object) -> Value:
    """A function of Keras' own by its name; where its defaults have changed, as the file's version has them."""
    if isinstance(given, dict):
        plain = given.get("class_name") == "function" and str(given.get("module") or "").split(".")[0] in _KERAS
        given = given.get("config") if plain else f"{given.get('module')}.{given.get('class_name')}"
    if given in (None, "linear"):
        return value
    if given in ("softmax", "log_softmax"):
        op = "Softmax" if given == "softmax" else "LogSoftmax"
        return call.add(op, [value.name], value.axes, axis=1 if value.axes == 4 else -1)
    known = _FUNCTIONS.get(str(given))
    if given == "hard_sigmoid":
        known = ("HardSigmoid", {"alpha": 0.2 if call.writer.keras < 3 else 1 / 6, "beta": 0.5})
    if known is None:
        raise refused(f"a {call.layer.kind} ({quoted(call.layer.name)}) with the activation {quoted(str(given))}")
    op, attributes = known
    if given == "relu6":
        return _clipped(call, value, 6.0)
    return call.add(op, [value.name], value.axes, **attributes)


def _clipped(call: _Call, value: Value, most: float) -> Value:
    bounds = [call.constant(torch.tensor(bound)) for bound in (0.0, most)]
    return call.add("Clip", [value.name, *bounds], value.axes)


_FUNCTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "elu": ("Elu", {}),
    "exponential": ("Exp", {}),
    "gelu": ("Gelu", {}),
    "hard_silu": ("HardSwish", {}),
    "hard_swish": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "mish": ("Mish", {}),
    "relu": ("Relu", {}),
    "relu6": ("Clip", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "silu": ("Swish", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "swish": ("Swish", {}),
    "tanh": ("Tanh", {}),
}


def _relu(call: _Call) -> Value:
    most, config = call.layer.config.get("max_value"), call.layer.config
    slope = call.layer.number("negative_slope", 0.0) if config.get("negative_slope") is not None else 0.0
    if config.get("threshold") or (most is not None and slope):
        raise call.layer.odd("threshold")
    if most is not None:
        return _clipped(call, call.x, call.layer.number("max_value", 0.0))
    return call.add("LeakyRelu", [call.x.name], alpha=slope) if slope else call.add("Relu", [call.x.name])


def _prelu(call: _Call) -> Value:
    (slope,) = call.arrays("alpha")
    return call.add("PRelu", [call.x.name, call.constant(slope.permute(2, 0, 1) if slope.dim() == 3 else slope)])


def _softmax(call: _Call) -> Value:
    return call.add("Softmax", [call.x.name], axis=call.axis(call.layer.config.get("axis", -1)))


def _arithmetic(call: _Call) -> Value:
    """What older files write for `x / 127.5` and the like."""
    ops = {"math.truediv": "Div", "math.multiply": "Mul", "math.subtract": "Sub", "math.add": "Add"}
    ops |= {"__operators__.add": "Add", "nn.relu": "Relu"}
    op, other = ops.get(str(call.layer.config.get("function"))), call.extra.get("y")
    if op == "Relu":
        return call.add(op, [call.x.name])
    if op is None or not isinstance(other, int | float):
        raise refused(f"the operation {quoted(str(call.layer.config.get('function')))}")
    return call.add(op, [call.x.name, call.constant(torch.tensor(float(other)))])


def _resized(call: _Call) -> Value:
    """Without smoothing, as Keras does it."""
    call.maps()
    odd = ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
    key = next((key for key in odd if call.layer.config.get(key)), None)
    if key is not None or call.layer.config.get("interpolation", "bilinear") != "bilinear":
        raise call.layer.odd(key or "interpolation")
    sides = [call.layer.ints(side)[0] for side in ("height", "width")]
    return call.add("Resize", [call.x.name, "", "", call.sizes(*sides)], mode="linear", axes=[2, 3])


_KINDS: Mapping[str, Callable[[_Call], Value]] = {
    **dict.fromkeys(
        (
            *("InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
            *(
                "ActivityRegularization",
                "RandomBrightness",
                "RandomContrast",
                "RandomCrop",
                "RandomFlip",
                "RandomHeight",
            ),
            *("RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom", "Identity"),
        ),
        lambda call: call.x,
    ),
    "Activation": lambda call: call.activated(call.x),
    "Add": _of_many("Add"),
    "Average": _average,
    "AveragePooling2D": _pool("AveragePool"),
    "BatchNormalization": _norm,
    "Concatenate": _joined,
    "Conv2D": _conv,
    "Cropping2D": _cropped,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise,
    "ELU": lambda call: call.add("Elu", [call.x.name], alpha=call.layer.number("alpha", 1.0)),
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global("GlobalAveragePool"),
    "GlobalMaxPooling2D": _global("GlobalMaxPool"),
    "LayerNormalization": _layer_norm,
    "LeakyReLU": lambda call: call.add(
        "LeakyRelu", [call.x.name], alpha=call.layer.number("negative_slope alpha", 0.3)
    ),
    "MaxPooling2D": _pool("MaxPool"),
    "Maximum": _of_many("Max"),
    "Minimum": _of_many("Min"),
    "Multiply": _of_many("Mul"),
    "Normalization": _standardised,
    "PReLU": _prelu,
    "Permute": _permute,
    "ReLU": _relu,
    "Rescaling": _scaled,
    "Reshape": _reshape,
    "Resizing": _resized,
    "SeparableConv2D": _separable,
    "Softmax": _softmax,
    "Subtract": _of_many("Sub"),
    "TFOpLambda": _arithmetic,
    "ZeroPadding2D": _padded,
}
