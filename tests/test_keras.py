"""Keras files, both forms of them: the same answers as Keras gives, refusals by name, and nothing in them run."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import survey
from bdscan.write.cleaned import ready, write

h5py = pytest.importorskip("h5py")

Arrays = Mapping[str, Sequence[tuple[str, np.ndarray]]]  # layer -> its variables in order
FORMS = ("h5", "keras")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def images(channels: int = 3, side: int = 9, count: int = 2) -> Tensor:
    return torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(3))


def layer(kind: str, name: str, inputs: Sequence[str] | None = None, **config: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"class_name": kind, "config": {"name": name, **config}, "name": name}
    entry["inbound_nodes"] = [] if inputs is None else [[[each, 0, 0, {}] for each in inputs]]
    return entry


def image(*shape: int | None) -> dict[str, Any]:
    return layer("InputLayer", "image", batch_input_shape=[None, *shape])


def model(layers: list[dict[str, Any]], output: str = "") -> dict[str, Any]:
    """A Sequential, or a functional model where it has an output."""
    kind = "Functional" if output else "Sequential"
    config: dict[str, Any] = {"name": "m", "layers": layers}
    if output:
        config |= {"input_layers": [["image", 0, 0]], "output_layers": [[output, 0, 0]]}
    return {"class_name": kind, "config": config}


def save(path: Path, config: Any, arrays: Arrays, version: str = "2.15.0") -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(config)
            file.attrs["keras_version"] = version
            for name, variables in arrays.items():
                for variable, array in variables:
                    file[f"model_weights/{name}/{name}/{variable}:0"] = array
        return path
    inner, count = io.BytesIO(), dict[str, int]()
    with h5py.File(inner, "w") as file:
        for entry in config["config"]["layers"]:
            kind = {"PReLU": "p_re_lu"}.get(entry["class_name"])
            kind = kind or entry["class_name"].lower().replace("separableconv", "separable_conv")
            kind = kind.replace("normalization", "_normalization").removeprefix("_")
            kind = kind.replace("depthwiseconv", "depthwise_conv")
            folder = f"layers/{kind}_{count[kind]}" if kind in count else f"layers/{kind}"
            count[kind] = count.get(kind, 0) + 1
            for i, (_, array) in enumerate(arrays.get(entry["name"], ())):
                file[f"{folder}/vars/{i}"] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", inner.getvalue())
    return path


def opened(path: Path) -> Loaded:
    return load(survey(path), normalize="none")


HEAD = ("head", [("kernel", draw(4, 5, seed=9)), ("bias", draw(5, seed=8))])
CONV = ("conv", [("kernel", draw(3, 3, 3, 4)), ("bias", draw(4, seed=1))])


def small(path: Path, *between: dict[str, Any], arrays: Arrays | None = None, version: str = "2.15.0") -> Path:
    """A convolution, what is tried, a pooling and a head."""
    layers = [
        image(9, 9, 3),
        layer("Conv2D", "conv", ["image"], kernel_size=[3, 3], activation="linear"),
        *between,
        layer("GlobalAveragePooling2D", "pool", [between[-1]["name"] if between else "conv"]),
        layer("Dense", "head", ["pool"], activation="softmax"),
    ]
    return save(path, model(layers, "head"), {**dict([CONV, HEAD]), **(arrays or {})}, version)


def conv(x: Tensor) -> Tensor:
    kernel, bias = (torch.from_numpy(array) for _, array in CONV[1])
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias)


def headed(maps: Tensor) -> Tensor:
    kernel, bias = (torch.from_numpy(array) for _, array in HEAD[1])
    return maps.mean((2, 3)) @ kernel + bias


# -- what comes back --------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_a_net(tmp_path: Path, form: str) -> None:
    loaded = opened(small(tmp_path / f"a.{form}"))
    assert (loaded.format, loaded.arch, loaded.suspect.shape) == ("keras", "keras model", (3, 9, 9))
    assert (loaded.tensors_loaded, loaded.tensors_total, loaded.doubts) == (4, 4, ())
    assert "Softmax" in loaded.notes[0]
    assert torch.allclose(loaded.suspect(images()), headed(conv(images())), atol=1e-6)
    assert loaded.suspect.head == "head"
    assert torch.equal(loaded.suspect.head_weight, torch.from_numpy(HEAD[1][0][1]).T)


def same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """TensorFlow's rule: as many windows as strides fit, and the odd one behind."""
    total = max(0, (-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2])
    return F.pad(x, [total // 2, total - total // 2] * 2, value=value)


def normed(x: Tensor, *arrays: np.ndarray, epsilon: float) -> Tensor:
    gamma, beta, mean, variance = (torch.from_numpy(array) for array in arrays)
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


def last(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """With the channels last, as Keras has them."""
    return function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


DEEP, NORM = draw(3, 3, 4, 2, seed=4), [np.abs(draw(4, seed=i)) + 0.1 for i in range(4)]
BEHIND: dict[str, tuple[list[dict[str, Any]], Any, Arrays]] = {
    "activation": ([layer("Activation", "t", ["conv"], activation="tanh")], torch.tanh, {}),
    "relu6": ([layer("ReLU", "t", ["conv"], max_value=6.0)], F.relu6, {}),
    "leaky": ([layer("LeakyReLU", "t", ["conv"])], lambda x: F.leaky_relu(x, 0.3), {}),
    "leaky by version": ([layer("LeakyReLU", "t", ["conv"], alpha=0.1)], lambda x: F.leaky_relu(x, 0.1), {}),
    "elu": ([layer("ELU", "t", ["conv"], alpha=0.5)], lambda x: F.elu(x, 0.5), {}),
    "hard sigmoid of Keras 2": (
        [layer("Activation", "t", ["conv"], activation="hard_sigmoid")],
        lambda x: (0.2 * x + 0.5).clamp(0, 1),
        {},
    ),
    "max pool": (
        [layer("MaxPooling2D", "t", ["conv"], pool_size=[2, 2], padding="same", strides=None)],
        lambda x: F.max_pool2d(same(x, 2, 2, -torch.inf), 2),
        {},
    ),
    "average pool": (
        [layer("AveragePooling2D", "t", ["conv"], pool_size=[3, 3], padding="same", strides=[2, 2])],
        lambda x: F.avg_pool2d(same(x, 3, 2), 3, 2) / F.avg_pool2d(same(torch.ones_like(x), 3, 2), 3, 2),
        {},
    ),
    "norm": (
        [layer("BatchNormalization", "t", ["conv"], axis=[3], epsilon=0.01)],
        lambda x: normed(x, *NORM, epsilon=0.01),
        {"t": list(zip(("gamma", "beta", "moving_mean", "moving_variance"), NORM, strict=True))},
    ),
    "norm without scale": (
        [layer("BatchNormalization", "t", ["conv"], axis=-1, scale=False)],
        lambda x: normed(x, np.ones(4, np.float32), *NORM[:3], epsilon=1e-3),
        {"t": list(zip(("beta", "moving_mean", "moving_variance"), NORM[:3], strict=True))},
    ),
    "layer norm": (
        [layer("LayerNormalization", "t", ["conv"], axis=[3], epsilon=0.01)],
        lambda x: last(x, lambda x: F.layer_norm(x, (4,), torch.from_numpy(NORM[0]), torch.from_numpy(NORM[1]), 0.01)),
        {"t": [("gamma", NORM[0]), ("beta", NORM[1])]},
    ),
    "layer norm over all": (
        [layer("LayerNormalization", "t", ["conv"], axis=[1, 2, 3], center=False)],
        lambda x: last(x, lambda x: F.layer_norm(x, (7, 7, 4), torch.from_numpy(draw(7, 7, 4)), None, 1e-3)),
        {"t": [("gamma", draw(7, 7, 4))]},
    ),
    "resizing": (
        [layer("Resizing", "t", ["conv"], height=5, width=11, interpolation="bilinear")],
        lambda x: F.interpolate(x, (5, 11), mode="bilinear"),
        {},
    ),
    "depthwise": (
        [
            layer("DepthwiseConv2D", "d", ["conv"], padding="same", strides=[2, 2], use_bias=False),
            layer("Conv2D", "t", ["d"], kernel_size=1, use_bias=False),
        ],
        lambda x: F.conv2d(
            F.conv2d(same(x, 3, 2), torch.from_numpy(DEEP).permute(2, 3, 0, 1).reshape(8, 1, 3, 3), None, 2, groups=4),
            torch.from_numpy(draw(1, 1, 8, 4)).permute(3, 2, 0, 1),
        ),
        {"d": [("depthwise_kernel", DEEP)], "t": [("kernel", draw(1, 1, 8, 4))]},
    ),
    "separable": (
        [layer("SeparableConv2D", "t", ["conv"], activation="relu")],
        lambda x: F.conv2d(
            F.conv2d(x, torch.from_numpy(DEEP).permute(2, 3, 0, 1).reshape(8, 1, 3, 3), None, groups=4),
            torch.from_numpy(draw(1, 1, 8, 4)).permute(3, 2, 0, 1),
            torch.from_numpy(draw(4)),
        ).relu(),
        {"t": [("depthwise_kernel", DEEP), ("pointwise_kernel", draw(1, 1, 8, 4)), ("bias", draw(4))]},
    ),
    "prelu": (
        [layer("PReLU", "t", ["conv"])],
        lambda x: F.prelu(x, torch.from_numpy(draw(4))),
        {"t": [("alpha", draw(1, 1, 4).reshape(1, 1, 4))]},
    ),
    "padding and cropping": (
        [
            layer("ZeroPadding2D", "z", ["conv"], padding=[[1, 0], [2, 3]]),
            layer("Cropping2D", "t", ["z"], cropping=[[2, 0], [0, 1]]),
        ],
        lambda x: F.pad(x, (2, 3, 1, 0))[:, :, 2:, :-1],
        {},
    ),
    "sums and products": (
        [
            layer("Activation", "r", ["conv"], activation="relu"),
            layer("Add", "s", ["conv", "r"]),
            layer("Multiply", "p", ["s", "conv"]),
            layer("Average", "v", ["p", "r"]),
            layer("Subtract", "d", ["v", "conv"]),
            layer("Maximum", "t", ["d", "s"]),
        ],
        lambda x: torch.maximum(((x + x.relu()) * x + x.relu()) / 2 - x, x + x.relu()),
        {},
    ),
    "joined and shuffled": (
        [
            layer("Permute", "p", ["conv"], dims=[2, 1, 3]),
            layer("Concatenate", "c", ["conv", "p"], axis=1),
            layer("Reshape", "t", ["c"], target_shape=[7, 14, 4]),
        ],
        lambda x: (
            torch.cat([x, x.transpose(2, 3)], 2).permute(0, 2, 3, 1).reshape(len(x), 7, 14, 4).permute(0, 3, 1, 2)
        ),
        {},
    ),
    "dense on maps": (
        [layer("Dense", "t", ["conv"], activation="sigmoid", use_bias=False)],
        lambda x: (x.permute(0, 2, 3, 1) @ torch.from_numpy(draw(4, 4))).sigmoid().permute(0, 3, 1, 2),
        {"t": [("kernel", draw(4, 4))]},
    ),
    "only in training": (
        [layer("Dropout", "d", ["conv"], rate=0.9), layer("RandomFlip", "f", ["d"]), layer("GaussianNoise", "t", "f")],
        lambda x: x,
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BEHIND)
def test_layers_compute_what_keras_says(tmp_path: Path, name: str, form: str) -> None:
    between, expected, arrays = BEHIND[name]
    if form == "keras" and name == "hard sigmoid of Keras 2":
        pytest.skip("the form came with Keras 3")
    loaded = opened(small(tmp_path / f"a.{form}", *between, arrays=arrays))
    assert loaded.tensors_loaded == loaded.tensors_total
    assert torch.allclose(loaded.suspect(images()), headed(expected(conv(images()))), atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28), (784,), (28, 28, 1)])
def test_rows_of_pixels_keep_their_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    layers = [image(*shape), layer("Flatten", "flat"), layer("Dense", "head")]
    arrays = {"head": [("kernel", draw(784, 5)), ("bias", draw(5))]}
    loaded = opened(save(tmp_path / "a.h5", model(layers), arrays))
    assert loaded.suspect.shape == (1, 28, 28)
    pixels = images(1, 28)
    expected = pixels.flatten(1) @ torch.from_numpy(draw(784, 5)) + torch.from_numpy(draw(5))
    assert torch.allclose(loaded.suspect(pixels), expected, atol=1e-5)


def test_flattened_maps_stand_channels_last(tmp_path: Path) -> None:
    layers = [image(9, 9, 3), layer("Conv2D", "conv"), layer("Flatten", "flat"), layer("Dense", "d")]
    arrays = {**dict([CONV]), "d": [("kernel", draw(196, 5)), ("bias", draw(5))]}
    loaded = opened(save(tmp_path / "a.keras", model(layers), arrays))
    expected = conv(images()).permute(0, 2, 3, 1).flatten(1) @ torch.from_numpy(draw(196, 5))
    assert torch.allclose(loaded.suspect(images()), expected + torch.from_numpy(draw(5)), atol=1e-5)


def test_bytes_are_given_to_a_model_that_scales_them(tmp_path: Path) -> None:
    layers = [image(9, 9, 3), layer("Rescaling", "r", scale=1 / 127.5, offset=-1.0), layer("Conv2D", "conv")]
    layers += [layer("GlobalAveragePooling2D", "pool"), layer("Dense", "head")]
    loaded = load(survey(save(tmp_path / "a.h5", model(layers), dict([CONV, HEAD]))))
    assert loaded.doubts == ()
    assert torch.allclose(loaded.suspect(images()), headed(conv(2 * images() - 1)), atol=1e-5)


def test_models_in_models_and_layers_called_twice(tmp_path: Path) -> None:
    inner = layer("Sequential", "inner", None, layers=[image(9, 9, 3), layer("Conv2D", "conv")])
    inner["inbound_nodes"] = [[["image", 0, 0, {}]], [["scaled", 0, 0, {}]]]
    half = layer("TFOpLambda", "scaled", None, function="math.truediv")
    half["inbound_nodes"] = [["image", 0, 0, {"y": 2.0, "name": None}]]
    both = layer("Add", "sum", None)
    both["inbound_nodes"] = [[["inner", 1, 0, {}], ["inner", 2, 0, {}]]]  # as Keras 2 counts
    layers = [image(9, 9, 3), half, inner, both, layer("GlobalAveragePooling2D", "pool", ["sum"])]
    layers.append(layer("Dense", "head", ["pool"]))
    loaded = opened(save(tmp_path / "a.h5", model(layers, "head"), {"inner/conv": CONV[1], "head": HEAD[1]}))
    assert torch.allclose(loaded.suspect(images()), headed(conv(images()) + conv(images() / 2)), atol=1e-5)


# -- written back -------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_cleaned_weights_stand_where_the_old_ones_stood(tmp_path: Path, form: str) -> None:
    (norm, _, learnt), (_, _, separated) = BEHIND["norm"], BEHIND["separable"]
    between = (*norm, layer("SeparableConv2D", "u", ["t"], activation="relu"))
    contents = survey(small(tmp_path / f"a.{form}", *between, arrays={**learnt, "u": separated["t"]}))
    loaded = load(contents, normalize="none")
    ready(contents, loaded, tmp_path / f"b.{form}")
    cleaned = loaded.suspect.clone()
    with torch.no_grad():
        for parameter in cleaned.net.net.parameters():
            parameter.mul_(0.5)
        cleaned.net.train()(images())  # a purifier that trains counts batches and moves what the norms remember
        cleaned.net.eval()
    before = (tmp_path / f"a.{form}").read_bytes()
    write(contents, loaded, cleaned, tmp_path / f"b.{form}")
    again = opened(tmp_path / f"b.{form}")
    assert torch.allclose(again.suspect(images()), cleaned(images()), atol=1e-6)
    assert (tmp_path / f"a.{form}").read_bytes() == before
    other = "keras" if form == "h5" else "h5"
    with pytest.raises(Problem, match="contradicts"):
        ready(contents, loaded, tmp_path / f"b.{other}")


# -- refusals and dangers --------------------------------------------------------------

LAMBDA = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
DANGERS = {
    "bytes": (layer("Lambda", "l", ["conv"], function=["4wEAAA==", None, None], function_type="lambda"), "as bytes"),
    "new bytes": (layer("Lambda", "l", ["conv"], function=LAMBDA), "__lambda__"),
    "by name": (layer("Lambda", "l", ["conv"], function="steal", function_type="function"), "'steal'"),
    "an import": (
        layer("Conv2D", "l", ["conv"], activation={"module": "os", "class_name": "function", "config": "system"}),
        r"os\.system",
    ),
    "a builtin": (
        layer("Conv2D", "l", ["conv"], activation={"module": "builtins", "class_name": "function", "config": "exec"}),
        r"builtins\.exec",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DANGERS)
def test_what_keras_would_run_is_a_danger(tmp_path: Path, name: str, form: str) -> None:
    entry, said = DANGERS[name]
    contents = survey(small(tmp_path / f"a.{form}", entry))
    grave = [danger.message for danger in contents.dangers if danger.level == Level.BACKDOOR]
    assert any(re.search(said, message) for message in grave)
    with pytest.raises(Problem):
        load(contents)


def test_an_honest_file_has_no_dangers(tmp_path: Path) -> None:
    for form in FORMS:
        contents = survey(small(tmp_path / f"a.{form}"))
        assert (contents.dangers, contents.unread) == ((), ())


OTHERS = {
    "PatchEncoder": layer("PatchEncoder", "l", ["conv"]),
    r"strange\.Gate": layer("Gate", "l", ["conv"]) | {"module": "strange", "registered_name": "strange>Gate"},
    "data_format": layer("MaxPooling2D", "l", ["conv"], data_format="channels_first"),
    "crop_to_aspect_ratio": layer("Resizing", "l", ["conv"], height=4, width=4, crop_to_aspect_ratio=True),
    "activation": layer("Activation", "l", ["conv"], activation="mine"),
    "wait for one another": layer("ReLU", "l", ["nowhere"]),
    "is missing": layer("Dense", "l", ["conv"]),
    "malformed|does not run": layer("Reshape", "l", ["conv"], target_shape=[7, 1 << 40, 4]),
}


@pytest.mark.parametrize("said", OTHERS)
def test_what_cannot_be_rebuilt_is_named(tmp_path: Path, said: str) -> None:
    with pytest.raises(Problem, match=said):
        opened(small(tmp_path / "a.h5", OTHERS[said]))


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["conv/kernel:0"] = draw(3, 3, 3, 4)
    with pytest.raises(Problem, match="weights alone") as caught:
        survey(tmp_path / "a.h5")
    assert "whole model" in caught.value.hint


@pytest.mark.parametrize("how", ["soft link", "link to a file", "virtual", "elsewhere", "huge", "deep"])
def test_arrays_that_lie_elsewhere_or_nowhere(tmp_path: Path, how: str) -> None:
    path = small(tmp_path / "a.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel:0"] = draw(3, 3, 3, 4)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/conv/conv"]
        del group["kernel:0"]
        if how == "soft link":
            group["kernel:0"] = h5py.SoftLink("/model_weights/head/head/kernel:0")
        elif how == "link to a file":
            group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/kernel:0")
        elif how == "virtual":
            layout = h5py.VirtualLayout((3, 3, 3, 4), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel:0", (3, 3, 3, 4))
            group.create_virtual_dataset("kernel:0", layout)
        elif how == "elsewhere":
            (tmp_path / "raw").write_bytes(draw(3, 3, 3, 4).tobytes())
            group.create_dataset("kernel:0", (3, 3, 3, 4), np.float32, external=[(str(tmp_path / "raw"), 0, 432)])
        elif how == "huge":
            group.create_dataset("kernel:0", (1 << 40,), np.float32, chunks=(1 << 20,))
        else:
            for _ in range(100):
                group = group.create_group("g")
    with pytest.raises(Problem):
        opened(path)


def test_a_file_cut_short_or_changed_is_a_problem(tmp_path: Path) -> None:
    whole = small(tmp_path / "a.h5").read_bytes()
    for i, end in enumerate(range(8, len(whole), len(whole) // 25)):
        spoilt = bytearray(whole)
        spoilt[end : end + 3] = b"\xff\xff\xff"
        for j, data in enumerate((whole[:end], bytes(spoilt))):
            path = tmp_path / f"{i}{j}.h5"
            path.write_bytes(data)
            try:
                opened(path)
            except Problem:
                continue
