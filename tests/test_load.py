"""From a file to a model: whole, with its own input size, normalisation and classes, or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.images.source import open_images
from bdscan.load.arch import find
from bdscan.load.arch.match import FilledNet
from bdscan.load.assembly import assemble, class_names, normalize
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.choose import Option, choose, relabelled, spread
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.assembly.normalize import Norm
from bdscan.load.contents import survey
from bdscan.load.graph.rebuilt import Rebuilt
from bdscan.load.nets.candidate import Candidate

CLASSES = 4
CIFAR10 = normalize.named_norms(3)["cifar10"]


def _conv(out: int, width: int, side: int, generator: torch.Generator) -> Tensor:
    weight: Tensor = torch.randn(out, width, side, side, generator=generator) / (width * side * side) ** 0.5
    return weight


def _state(seed: int = 0) -> dict[str, Tensor]:
    """A WRN-10-1 with four channels to begin with."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {"conv1.weight": _conv(4, 3, 3, generator)}
    width = 4
    for stage, out in ((1, 4), (2, 8), (3, 16)):
        name = f"block{stage}.layer.0"
        made |= _norm(f"{name}.bn1", width) | {f"{name}.conv1.weight": _conv(out, width, 3, generator)}
        made |= _norm(f"{name}.bn2", out) | {f"{name}.conv2.weight": _conv(out, out, 3, generator)}
        if width != out:
            made[f"{name}.convShortcut.weight"] = _conv(out, width, 1, generator)
        width = out
    made |= _norm("bn1", width)
    made["fc.weight"], made["fc.bias"] = torch.randn(CLASSES, width, generator=generator), torch.zeros(CLASSES)
    return made


def _norm(name: str, width: int) -> dict[str, Tensor]:
    kinds = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    return {f"{name}.{kind}": torch.full((width,), value) for kind, value in kinds.items()} | {
        f"{name}.num_batches_tracked": torch.tensor(3)
    }


STATE = _state()
PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _logits(norm: Norm = CIFAR10, pixels: Tensor = PIXELS, state: dict[str, Tensor] = STATE) -> Tensor:
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in (norm.mean, norm.std))
    with torch.no_grad():
        return find("auto", state, None, {}, "")[0].net.eval()((pixels - mean) / std)  # type: ignore[no-any-return]


def _ours(loaded: Loaded, norm: Norm = CIFAR10) -> None:
    with torch.no_grad():
        torch.testing.assert_close(loaded.suspect(PIXELS), _logits(norm))
    assert loaded.tensors_loaded == loaded.tensors_total == len(STATE)


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in STATE.items()}


class _Net(nn.Module):
    """The same names as a module of the user's own, to be pickled whole."""


def _module() -> nn.Module:
    net = _Net()
    for name, value in STATE.items():
        holder: nn.Module = net
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in dict(holder.named_children()):
                holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        holder.register_buffer(leaf, value)
    return net


LAYOUTS: dict[str, Callable[[], object]] = {
    "plain": lambda: STATE,
    "ordered": lambda: OrderedDict(STATE),
    "state_dict": lambda: {"epoch": 3, "state_dict": STATE, "optimizer": {"state": {}}},
    "model": lambda: {"model": STATE, "acc": 0.9},
    "nested": lambda: {"net": {"state_dict": STATE}, "args": {"lr": 0.1}},
    "ema": lambda: {"state_dict": _state(5), "state_dict_ema": STATE},
    "parallel": lambda: _prefixed("module."),
    "compiled": lambda: {"model": _prefixed("_orig_mod.module.")},
    "lightning": lambda: {"state_dict": _prefixed("model."), "pytorch-lightning_version": "2", "hyper_parameters": {}},
    "pickled": _module,
    "bench": lambda: {"model_name": "wrn", "num_classes": CLASSES, "model": STATE, "img_size": (32, 32, 3)},
    "half precision": lambda: {
        name: value.double() if value.is_floating_point() else value for name, value in STATE.items()
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_whole(tmp_path: Path, layout: str, zipped: bool) -> None:
    path = tmp_path / "net.pt"
    torch.save(LAYOUTS[layout](), path, _use_new_zipfile_serialization=zipped)
    _ours(load(survey(path), normalize="cifar10", device="cpu"))


def test_safetensors_and_model_folders(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    _ours(load(survey(tmp_path / "model.safetensors"), normalize="cifar10", device="cpu"))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"sign {i}" for i in range(CLASSES)}}))
    loaded = load(survey(tmp_path), normalize="cifar10", device="cpu")
    _ours(loaded)
    assert loaded.suspect.names == tuple(f"sign {i}" for i in range(CLASSES))


def test_a_timm_folder_says_all_of_itself(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    original = timm.create_model("resnet10t", num_classes=5).eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 64, 64]}
    config = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": cfg, "label_names": list("abcde")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(survey(tmp_path), device="cpu")
    assert (loaded.suspect.shape, loaded.suspect.classes, loaded.doubts) == ((3, 64, 64), 5, ())
    assert loaded.suspect.names == tuple("abcde")
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        normal = (pixels - torch.tensor(cfg["mean"]).view(1, 3, 1, 1)) / 0.2
        torch.testing.assert_close(loaded.suspect(pixels), original(normal))


def test_half_of_a_parallel_file_is_refused(tmp_path: Path) -> None:
    mixed = {(f"module.{name}" if i % 2 else name): value for i, (name, value) in enumerate(STATE.items())}
    torch.save(mixed, tmp_path / "net.pt")
    with pytest.raises(Problem):
        load(survey(tmp_path / "net.pt"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, bad: float) -> None:
    weight = STATE["bn1.bias"].clone()
    weight[3] = bad
    torch.save({**STATE, "bn1.bias": weight}, tmp_path / "net.pt")
    with pytest.raises(Problem, match=r"`bn1\.bias` holds NaN or infinity") as raised:
        load(survey(tmp_path / "net.pt"))
    assert raised.value.status == 3


def test_without_images_the_assumption_is_a_doubt(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "net.pt")
    loaded = load(survey(tmp_path / "net.pt"), device="cpu")
    assert loaded.clean is None
    assert loaded.clean_accuracy is None
    assert any("normalisation cannot be told" in doubt for doubt in loaded.doubts)
    assert loaded.suspect.doubts == loaded.doubts
    assert not load(survey(tmp_path / "net.pt"), normalize="none", device="cpu").doubts


def _images(path: Path, norm: Norm, order: list[int], names: list[str] | None = None, side: int = 32) -> str:
    """Pictures labelled by what the net itself says behind `norm`, the classes renumbered by `order`."""
    generator = np.random.default_rng(0)
    flat = generator.uniform(0, 255, (600, 1, 1, 3)) + generator.normal(0, 25, (600, side, side, 3))
    images = flat.clip(0, 255).astype(np.uint8)
    said = _logits(norm, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).argmax(1)
    labels = torch.tensor(order)[said].numpy()
    more: dict[str, Any] = {"names": np.array(names)} if names else {}
    np.savez(path, images=images, labels=labels, **more)
    return str(path)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Its last bias balances the classes under the normalisations used here."""
    torch.save(STATE, tmp_path / "net.pt")
    return tmp_path / "net.pt"


@pytest.mark.parametrize("name", ["none", "half", "cifar10"])
def test_the_normalisation_with_the_best_accuracy_is_taken(net: Path, name: str) -> None:
    norm = normalize.named_norms(3)[name]
    source = open_images(_images(net.with_suffix(".npz"), norm, [0, 1, 2, 3]))
    loaded = load(survey(net), images=source, device="cpu")
    assert loaded.normalize == name
    assert loaded.clean_accuracy == 1.0
    assert any("normalisation chosen by accuracy" in note for note in loaded.notes)
    _ours(loaded, norm)


def test_another_class_order_is_told_and_mended(net: Path) -> None:
    names = ["yield", "stop", "left", "right"]
    source = open_images(_images(net.with_suffix(".npz"), CIFAR10, [1, 2, 3, 0], names))
    loaded = load(survey(net), images=source, device="cpu")
    assert loaded.normalize == "cifar10"  # a wrong order must not look like a wrong normalisation
    assert any("another order" in doubt and "--classes" in doubt for doubt in loaded.doubts)
    listing = net.with_suffix(".txt")
    listing.write_text("stop\nleft\nright\nyield\n")
    mended = load(survey(net), images=source, classes=listing, device="cpu")
    assert mended.clean_accuracy == 1.0
    assert not mended.doubts
    assert mended.suspect.names == ("stop", "left", "right", "yield")


def test_too_many_classes_in_the_images_is_usage(net: Path) -> None:
    source = open_images(_images(net.with_suffix(".npz"), CIFAR10, [0, 5, 6, 7]))
    with pytest.raises(Problem, match="classes") as raised:
        load(survey(net), images=source, device="cpu")
    assert raised.value.status == USAGE


def test_the_images_own_size_is_the_nets(net: Path) -> None:
    source = open_images(_images(net.with_suffix(".npz"), CIFAR10, [0, 1, 2, 3], side=48))
    assert load(survey(net), images=source, device="cpu").suspect.shape == (3, 48, 48)
    assert load(survey(net), device="cpu").suspect.shape == (3, 32, 32)


def test_the_size_and_normalisation_in_the_file_are_used(tmp_path: Path) -> None:
    torch.save({"model": STATE, "img_size": (64, 64, 3), "clean_data": "gtsrb"}, tmp_path / "net.pt")
    loaded = load(survey(tmp_path / "net.pt"), device="cpu")
    assert loaded.suspect.shape == (3, 64, 64)
    assert (loaded.normalize, loaded.doubts) == ("none", ())


def test_a_net_that_answers_with_a_tuple_is_refused(tmp_path: Path) -> None:
    code = "import torch\nclass N(torch.nn.Module):\n"
    code += " def __init__(s):\n  super().__init__()\n  s.a = torch.nn.Linear(3, 2)\n"
    code += " def forward(s, x):\n  return x, s.a(x.mean((2, 3)))\ndef net(): return N()\n"
    (tmp_path / "mine.py").write_text(code)
    torch.save({"a.weight": torch.rand(2, 3), "a.bias": torch.rand(2)}, tmp_path / "net.pt")
    with pytest.raises(Problem, match="a tuple, not with two rows of logits"):
        load(survey(tmp_path / "net.pt"), arch=f"{tmp_path}/mine.py:net")


def test_an_onnx_graph_is_its_own_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Path) -> None:
    inner = find("auto", STATE, None, {}, "")[0].net
    rebuilt = Rebuilt(net=inner, name="onnx graph", tensors_used=7, tensors_total=7, shape=(3, 40, 40))
    monkeypatch.setattr(assemble, "READERS", {"onnx": lambda file: rebuilt})
    contents = survey(net)
    object.__setattr__(contents, "format", "onnx")
    loaded = load(contents, device="cpu")
    assert (loaded.arch, loaded.tensors_loaded, loaded.suspect.shape) == ("onnx graph", 7, (3, 40, 40))
    with pytest.raises(Problem, match="own architecture"):
        load(contents, arch="torchvision:resnet18")


@pytest.mark.parametrize("spec", ["cifar11", "1,2/3,4", "0.5/0", "nan/1", "0.5,0.5,0.5", "a/b", "", "/"])
def test_a_wrong_normalisation_is_usage(net: Path, spec: str) -> None:
    with pytest.raises(Problem, match="no normalisation") as raised:
        load(survey(net), normalize=spec, device="cpu")
    assert raised.value.status == USAGE


def test_figures_are_taken_as_they_are() -> None:
    assert normalize.parse("0.49,0.48,0.45/0.25,0.24,0.26", 3).std == (0.25, 0.24, 0.26)
    assert normalize.parse("0.5/0.25", 3).mean == (0.5, 0.5, 0.5)
    assert normalize.parse("mnist", 1).mean == (0.1307,)
    assert normalize.parse("gtsrb", 3).std == (1.0, 1.0, 1.0)


def test_what_preprocessors_say_is_used(tmp_path: Path) -> None:
    said = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = normalize.stated(tmp_path, {}, {}, 3)
    assert found is not None
    assert found.name == "imagenet"
    assert normalize.stated(tmp_path, {}, {}, 1) is None
    for nonsense in ({"mean": "x", "std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": [0, 1, 1]}):
        assert normalize.stated(tmp_path / "none", nonsense, {}, 3) is None


@pytest.mark.parametrize(
    "text",
    ["cat\ndog\n", '["cat", "dog"]', '{"1": "dog", "0": "cat"}', '{"dog": 1, "cat": 0}'],
)
def test_class_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text)
    assert class_names.read(tmp_path / "names", 2) == ("cat", "dog")
    with pytest.raises(Problem, match="has 2 classes, the net 3") as raised:
        class_names.read(tmp_path / "names", 3)
    assert raised.value.status == USAGE


@pytest.mark.parametrize("text", ["[1", "cat\ncat", '{"1": "a", "2": "b"}', "cat\n\ndog"])
def test_wrong_class_files_are_usage(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_text(text)
    with pytest.raises(Problem) as raised:
        class_names.read(tmp_path / "names", 2)
    assert raised.value.status == USAGE


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(Problem, match="no list of class names") as caught:
        class_names.read(tmp_path / "names.txt", 3)
    assert caught.value.status == 2
    os.mkfifo(tmp_path / "preprocessor_config.json")
    with pytest.raises(Problem, match="no ordinary file"):
        normalize.stated(tmp_path, {}, {}, 3)


def test_placeholders_are_no_names() -> None:
    assert class_names.stated({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, {}, 2) == ()
    assert class_names.stated({}, {"class_to_idx": {"b": 0, "a": 1}}, 2) == ("b", "a")
    assert class_names.stated({"id2label": {"0": "a"}}, {}, 2) == ()


def _options(*wrong: range) -> tuple[list[Option], ImageSet]:
    """Two hundred images, and for each option those that it gets wrong."""
    labels = torch.arange(200) % 4
    clean = ImageSet(torch.zeros(200, 3, 32, 32, dtype=torch.uint8), labels)
    ordered = labels[spread(labels)]
    options = []
    for norm, missed in zip(normalize.named_norms(3).values(), wrong, strict=False):
        answers = ordered.clone()
        answers[list(missed)] = (answers[list(missed)] + torch.arange(len(missed)) % 3 + 1) % 4
        found = FilledNet(nn.Identity(), Candidate(name="net", build=nn.Identity))
        options.append(Option(found, norm, answers))
    return options, clean


def test_ties_that_answer_alike_are_no_doubt_and_the_commoner_is_taken() -> None:
    options, clean = _options(range(0, 200, 20), range(0, 180, 20), range(0, 200, 2))
    choice = choose(options, clean, torch.device("cpu"))
    assert choice.option is options[0]  # though the second is right once more
    assert not choice.doubts
    assert "hardly different: `none` 95.5% of 200 images" in choice.notes[0]
    assert "`imagenet` 50.0% of 200 images" in choice.notes[0]
    assert choice.accuracy == pytest.approx(0.95)


def test_ties_that_answer_differently_are_a_doubt() -> None:
    options, clean = _options(range(0, 200, 3), range(1, 200, 3))
    choice = choose(options, clean, torch.device("cpu"))
    assert any("normalisation is not settled" in doubt and "`none`" in doubt for doubt in choice.doubts)


def test_a_clear_winner_is_taken_wherever_it_stands() -> None:
    options, clean = _options(range(0, 200, 3), range(0, 200, 4), range(0, 200, 50))
    choice = choose(options, clean, torch.device("cpu"))
    assert choice.option is options[2]
    assert not choice.doubts


def test_one_image_a_class_shows_no_order() -> None:
    labels = torch.arange(60)
    clean = ImageSet(torch.zeros(60, 3, 32, 32, dtype=torch.uint8), labels)
    found = FilledNet(nn.Identity(), Candidate(name="net", build=nn.Identity))
    option = Option(found, CIFAR10, (labels + 1) % 60)
    assert relabelled(option.answers, labels) == 1.0
    assert not choose([option], clean, torch.device("cpu")).doubts


def test_relabelling_is_one_to_one() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert relabelled(torch.tensor([1, 1, 2, 2, 0, 0]), labels) == 1.0
    assert relabelled(torch.zeros(6, dtype=torch.long), labels) == pytest.approx(1 / 3)


def test_surveying_needs_no_torch() -> None:
    import subprocess

    code = "import sys, bdscan.load.contents, bdscan.load.assembly.loaded; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_files_of_weights_in_a_folder_must_hold_the_same(tmp_path: Path) -> None:
    """Which of them is loaded hangs on the reader; one alone would be judged."""
    state = {name: tensor.contiguous() for name, tensor in resnet18(num_classes=10).state_dict().items()}
    (tmp_path / "config.json").write_text("{}")
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert not load(survey(tmp_path), normalize="none").doubts
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, tmp_path / "pytorch_model.bin")
    (doubt,) = load(survey(tmp_path), normalize="none").doubts
    assert "holds other weights" in doubt
