"""A cleaned model in the form it came in: every form there and back, nothing of the old weights, never half a file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import warnings
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SAMPLES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdscan.facts.finding import Judgement, Level, Verdict
from bdscan.facts.problem import USAGE, Problem
from bdscan.facts.treatment import Accuracy, Treatment, TriggerOutcome
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import Contents, survey
from bdscan.net.classifier import Classifier, Normalised
from bdscan.report import Report, Subject
from bdscan.write.card import card
from bdscan.write.cleaned import Written, ready, write

SHAPE = (3, 16, 16)
FACTORY = """
from torch import nn

def block(taken, given):
    return [nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]

def net(num_classes=6):
    return nn.Sequential(
        *block(3, 8), nn.MaxPool2d(2), *block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)
    )
"""


@pytest.fixture
def arch(tmp_path: Path) -> str:
    (tmp_path / "owner.py").write_text(FACTORY)
    return f"{tmp_path / 'owner.py'}:net"


def opened(path: Path, arch: str = "auto") -> tuple[Contents, Loaded]:
    contents = survey(path)
    return contents, load(contents, arch=arch, normalize="0.5/0.25", device="cpu")


def cured(suspect: Classifier) -> Classifier:
    """Every number another one, as after a purification."""
    cleaned = suspect.clone()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in cleaned.net.net.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + torch.rand(tensor.shape, generator=generator) / 8).add_(0.01)
            else:
                tensor.add_(3)
    return cleaned


def readable(place: Path) -> int:
    """The rights that any new file gets."""
    (place / "any").touch()
    mode = (place / "any").stat().st_mode
    (place / "any").unlink()
    return mode


def there(path: Path, output: Path, arch: str = "auto", **asked: Any) -> tuple[Written, Classifier, Loaded]:
    """Opens, cures, writes, and sees to what holds for every form."""
    before = {file: file.read_bytes() for file in ([path] if path.is_file() else path.iterdir())}
    contents, loaded = opened(path, arch)
    ready(contents, loaded, output)
    cleaned = cured(loaded.suspect)
    digest = cleaned.digest()
    written = write(contents, loaded, cleaned, output, **asked)
    assert {file: file.read_bytes() for file in before} == before, "the original is evidence"
    assert cleaned.digest() == digest
    assert not [file for file in output.parent.iterdir() if file.name.startswith(".bdscan-")]
    assert all(file.exists() for file in written.files)
    assert all(file.stat().st_mode == readable(path.parent) for file in written.files if file.is_file())
    assert survey(output).sha256 == written.sha256
    assert not [danger for danger in survey(output).dangers if danger.level > Level.NOTE]
    again = opened(output, arch)[1].suspect
    assert torch.allclose(again(PIXELS), cleaned(PIXELS), atol=0.05)
    assert not torch.allclose(loaded.suspect(PIXELS), cleaned(PIXELS), atol=0.3)
    return written, cleaned, loaded


PIXELS = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(5))


def weights(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit by bit, names in the same order."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_dict_goes_back_in_its_own_order_with_its_versions(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    state: Any = tiny.net.net.state_dict()
    shuffled: Any = OrderedDict(reversed(state.items()))
    shuffled._metadata = state._metadata
    torch.save(shuffled, tmp_path / "net.pt")
    written, cleaned, _ = there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    back = weights(tmp_path / "out.pt")
    assert type(back) is OrderedDict
    assert back._metadata == state._metadata  # type: ignore[attr-defined]
    assert same(back, {name: cleaned.net.net.state_dict()[name] for name in shuffled})
    tiny.net.net.load_state_dict(back, strict=True)
    assert written.notes == ()
    assert written.files == (tmp_path / "out.pt",)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_the_same_bytes_twice(tiny: Classifier, tmp_path: Path, arch: str, form: str) -> None:
    state = tiny.net.net.state_dict()
    if form == "pt":
        torch.save(state, tmp_path / "net.pt")
    else:
        save_file(state, tmp_path / "net.safetensors", {name: "x" for name in "abcdefgh"})
    made = {there(tmp_path / f"net.{form}", tmp_path / f"{i}.{form}", arch)[0].sha256 for i in range(5)}
    assert len(made) == 1


def checkpoint(net: nn.Module) -> dict[str, Any]:
    """As training scripts leave them behind."""
    state = OrderedDict((f"module.{name}", tensor) for name, tensor in net.state_dict().items())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.requires_grad_(True)(torch.rand(2, *SHAPE)).sum().backward()
    optimiser.step()
    return {
        "epoch": 7,
        "hyper_parameters": {"lr": 0.1, "milestones": [10, 20], "size": (3, 16, 16), "args": Namespace(lr=0.1)},
        "best_acc": np.float64(0.75),
        "loss": torch.tensor(0.5),
        "state_dict": state,
        "optimizer": optimiser.state_dict(),
        "averaged_ema": OrderedDict((name, tensor.clone()) for name, tensor in state.items()),
        "centres": torch.rand(6, 16),
        "dtype": torch.float16,
    }


def test_plain_entries_stay_and_everything_with_old_weights_goes(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    saved = checkpoint(copy.deepcopy(tiny.net.net))
    torch.save(saved, tmp_path / "net.pth.tar")
    written, _, loaded = there(tmp_path / "net.pth.tar", tmp_path / "out.pth.tar", arch)
    assert (loaded.wrapper, loaded.prefix) == ("state_dict", "module.")
    back = weights(tmp_path / "out.pth.tar")
    assert list(back) == ["epoch", "hyper_parameters", "best_acc", "loss", "state_dict", "dtype"]
    assert back["hyper_parameters"] == {"lr": 0.1, "milestones": [10, 20], "size": (3, 16, 16)}
    assert (back["epoch"], back["best_acc"], float(back["loss"]), back["dtype"]) == (7, 0.75, 0.5, torch.float16)
    assert list(back["state_dict"]) == list(saved["state_dict"])
    nn.DataParallel(tiny.net.net).load_state_dict(back["state_dict"], strict=True)
    told = "\n".join(written.notes)
    for name in ("`'optimizer'`", "`'averaged_ema'`", "`'centres'`", "`'hyper_parameters.args'`"):
        assert name in told
    assert "epoch" not in told
    data = (tmp_path / "out.pth.tar").read_bytes()
    for tensor in (*saved["state_dict"].values(), saved["centres"]):
        if tensor.numel() > 1:
            assert tensor.numpy().tobytes() not in data, "no old weights anywhere in the file"


def test_odd_entries_do_no_harm(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    state, endless, grown = tiny.net.net.state_dict(), list[Any](), list[Any]([1])
    endless.append(endless)
    for _ in range(30):
        grown = [grown] * 10  # a million million million million million ones, if each were written out
    kept = {
        "grown": grown,
        "milestones": Counter({30: 1, 60: 1}),
        "size": torch.Size([3, 2]),
        "huge": 1 << 80,
        "none": None,
    }
    gone = {
        "endless": endless,
        "long": bytes(9999),
        "device": torch.device("cpu"),
        "deep": {"weights": [{"old": torch.rand(9)}]},
    }
    torch.save({"epoch": 1, **kept, **gone, "best": state, "state_dict": state}, tmp_path / "net.pt")
    there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    back = weights(tmp_path / "out.pt")
    assert list(back) == ["epoch", *kept, "best", "state_dict"]
    for name in ("milestones", "size", "huge", "none"):
        assert back[name] == kept[name]
        assert type(back[name]) is type(kept[name])
    assert same(back["best"], back["state_dict"])


def test_weights_beside_their_average_are_replaced_too(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    state = tiny.net.net.state_dict()
    raw = OrderedDict((f"module.{name}", tensor + 1) for name, tensor in state.items())
    torch.save({"state_dict": raw, "state_dict_ema": state}, tmp_path / "net.pt")
    written, cleaned, loaded = there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    assert loaded.wrapper == "state_dict_ema"
    back = weights(tmp_path / "out.pt")
    assert same(back["state_dict_ema"], cleaned.net.net.state_dict())
    assert [*back["state_dict"]] == [*raw]
    assert all(torch.equal(back["state_dict"][f"module.{name}"], back["state_dict_ema"][name]) for name in state)
    assert any("second set" in note for note in written.notes)


def test_entries_of_a_list_keep_their_places(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    moments = {"state": {0: {"momentum_buffer": torch.rand(4, 4)}}}
    torch.save((moments, tiny.net.net.state_dict(), 9), tmp_path / "net.pt")
    there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    first, state, last = weights(tmp_path / "out.pt")
    assert (first, last) == (None, 9)
    tiny.net.net.load_state_dict(state, strict=True)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_comes_back(tiny: Classifier, tmp_path: Path, arch: str, kind: torch.dtype) -> None:
    state = {n: t.to(kind) if t.is_floating_point() else t for n, t in tiny.net.net.state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    _, cleaned, _ = there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    back = weights(tmp_path / "out.pt")
    assert {name: tensor.dtype for name, tensor in back.items()} == {name: t.dtype for name, t in state.items()}
    assert same(back, {name: t.to(state[name].dtype) for name, t in cleaned.net.net.state_dict().items()})


def test_a_number_too_large_for_the_files_type_is_told(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    torch.save({n: t.half() for n, t in tiny.net.net.state_dict().items()}, tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    cleaned = loaded.suspect.clone()
    cleaned.net.net.get_submodule("0").weight.data[0] = 1e6  # type: ignore[operator]
    with pytest.raises(Problem, match=r"`0\.weight` holds NaN or infinity as float16"):
        write(contents, loaded, cleaned, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_parameters_stay_parameters_and_old_counters_stay_away(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    kept = {n: t for n, t in tiny.net.net.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = OrderedDict((name, nn.Parameter(tensor)) for name, tensor in kept.items())
    torch.save(state, tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    written, _, _ = there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    back = weights(tmp_path / "out.pt")
    assert list(back) == list(kept)
    assert all(isinstance(tensor, nn.Parameter) for tensor in back.values())
    tiny.net.net.load_state_dict(back, strict=True)
    assert written.notes == ("the pytorch legacy file is written in the zip form of `torch.save`",)


def test_a_pickled_net_becomes_a_state_dict(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    torch.save({"model": tiny.net.net, "epoch": 3}, tmp_path / "net.pt")
    written, cleaned, _ = there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    back = weights(tmp_path / "out.pt")
    assert sorted(back) == sorted(cleaned.net.net.state_dict())
    tiny.net.net.load_state_dict(back, strict=True)
    assert any("its class belongs to its owner" in note for note in written.notes)


def test_torchscript_becomes_a_state_dict(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    made = tiny.net.net.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, but the files are there
        torch.jit.save(torch.jit.trace(tiny.net.net, torch.rand(1, *SHAPE)), tmp_path / "net.pt")
    written, _, _ = there(tmp_path / "net.pt", tmp_path / "out.pt", arch)
    assert sorted(weights(tmp_path / "out.pt")) == sorted(made)
    assert any("TorchScript" in note for note in written.notes)


def test_a_bare_pickle(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(dict(tiny.net.net.state_dict())))
    there(tmp_path / "net.pkl", tmp_path / "out.pt", arch)
    tiny.net.net.load_state_dict(weights(tmp_path / "out.pt"), strict=True)


def test_the_shipped_model(tmp_path: Path) -> None:
    path = SAMPLES / "models" / "backdoored.pt"
    contents = survey(path)
    loaded = load(contents, normalize="none", device="cpu")
    cleaned = cured(loaded.suspect)
    write(contents, loaded, cleaned, tmp_path / "out.pt")
    again = load(survey(tmp_path / "out.pt"), normalize="none", device="cpu").suspect
    assert again.digest() == cleaned.digest()
    assert survey(path).sha256 == contents.sha256


def test_a_whole_torchvision_net_in_a_wrapper(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    net = resnet18(weights=None, num_classes=7)
    state = OrderedDict((f"module.{name}", tensor) for name, tensor in net.state_dict().items())
    torch.save({"state_dict": state, "arch": "resnet18"}, tmp_path / "net.pth")
    contents = survey(tmp_path / "net.pth")
    loaded = load(contents, normalize="imagenet", device="cpu")
    cleaned = cured(loaded.suspect)
    write(contents, loaded, cleaned, tmp_path / "out.pth")
    back = weights(tmp_path / "out.pth")
    assert back["arch"] == "resnet18"
    nn.DataParallel(net).load_state_dict(back["state_dict"], strict=True)
    assert torch.equal(net.fc.weight, cleaned.net.net.state_dict()["fc.weight"])


def test_safetensors_keep_their_metadata(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    state = {n: t.half() if t.is_floating_point() else t for n, t in tiny.net.net.state_dict().items()}
    save_file(state, tmp_path / "net.safetensors", {"format": "pt", "author": "somebody"})
    there(tmp_path / "net.safetensors", tmp_path / "out.safetensors", arch)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        noted = file.metadata()
    original = hashlib.sha256((tmp_path / "net.safetensors").read_bytes()).hexdigest()
    assert noted["bdscan.purified_from"] == original
    assert (noted["format"], noted["author"]) == ("pt", "somebody")
    back = load_file(tmp_path / "out.safetensors")
    assert {name: tensor.dtype for name, tensor in back.items()} == {name: t.dtype for name, t in state.items()}
    tiny.net.net.load_state_dict(back, strict=True)


def folder(place: Path, weights_name: str = "model.safetensors") -> dict[str, Tensor]:
    """A small ResNet as transformers names its parts."""
    from bdscan.load.arch.from_transformers import _rename_resnet

    place.mkdir()
    generator, state = torch.Generator().manual_seed(0), dict[str, Tensor]()

    def layer(name: str, taken: int, given: int, side: int) -> None:
        state[f"{name}.convolution.weight"] = torch.randn(given, taken, side, side, generator=generator) / (taken**0.5)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.normalization.{kind}"] = torch.rand(given, generator=generator) + 0.5
        state[f"{name}.normalization.num_batches_tracked"] = torch.tensor(5)

    layer("resnet.embedder.embedder", 3, 4, 7)
    width = 4
    for stage, given in enumerate((4, 8, 16, 32)):
        name = f"resnet.encoder.stages.{stage}.layers.0"
        if given != width:
            layer(f"{name}.shortcut", width, given, 1)
        layer(f"{name}.layer.0", width, given, 3)
        layer(f"{name}.layer.1", given, given, 3)
        width = given
    state["classifier.1.weight"] = torch.randn(6, width, generator=generator)
    state["classifier.1.bias"] = torch.zeros(6)
    assert len(_rename_resnet(state)) == len(state)
    save = save_file if weights_name.endswith("safetensors") else torch.save
    save(state, place / weights_name)
    config = {"architectures": ["ResNetForImageClassification"], "image_size": 32}
    (place / "config.json").write_text(json.dumps(config))
    return state


def test_a_folder_goes_back_as_a_folder(tmp_path: Path) -> None:
    state = folder(tmp_path / "in")
    torch.save(state, tmp_path / "in" / "pytorch_model.bin")
    (tmp_path / "in" / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    (tmp_path / "in" / "modeling.py").write_text("raise SystemExit")
    (tmp_path / "in" / "README.md").write_text("the old card")
    (tmp_path / "in" / "labels.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "secret.txt").write_text("somebody's")
    written, cleaned, _ = there(tmp_path / "in", tmp_path / "out", card="the new card\n")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"}
    assert (tmp_path / "out" / "README.md").read_text() == "the new card\n"
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "in" / "config.json").read_bytes()
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert back.keys() == state.keys(), "under the names that transformers has for them"
    assert torch.equal(
        back["resnet.embedder.embedder.convolution.weight"], cleaned.net.net.state_dict()["conv1.weight"]
    )
    assert any("`labels.txt`, `modeling.py`, `pytorch_model.bin`" in note for note in written.notes)


def test_numbers_that_were_joined_come_apart_again() -> None:
    from bdscan.load.arch.from_transformers import _rename_vit
    from bdscan.write.file_tensors import as_in_file

    layer = "vit.encoder.layer.0.attention"
    held = {
        f"{layer}.attention.{part}.{kind}": torch.rand(4, 4)
        for part in ("query", "key", "value")
        for kind in ("weight",)
    }
    held |= {f"{layer}.attention.{part}.bias": torch.rand(4).half() for part in ("query", "key", "value")}
    held |= {"classifier.weight": torch.rand(3, 4), "vit.layernorm.bias": torch.rand(4)}
    net = {name: tensor.float() + 1 for name, tensor in _rename_vit(held).items()}
    back = as_in_file(net, held, _rename_vit)
    assert list(back) == list(held)
    assert all(torch.equal(back[name], (held[name].float() + 1).to(held[name].dtype)) for name in held)


def exported(net: Normalised, place: Path, **asked: Any) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from bdscan.write.onnx_export import _exported

    suspect = Classifier(copy.deepcopy(net), SHAPE, 6)
    model = _exported(suspect)
    onnx.save(model, str(place), **asked)
    return place


def shared(path: Path) -> Path:
    """By hand: a weight in a constant, one used by two layers, one transposed on the way, one in half precision."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    def node(op: str, taken: str, given: str, **told: Any) -> Any:
        return helper.make_node(op, taken.split(), given.split(), **told)

    nodes = [
        node("Constant", "", "k0", value=numpy_helper.from_array(draw(4, 3, 3, 3))),
        node("Conv", "x k0", "a", pads=[1, 1, 1, 1]),
        node("Conv", "a k1", "b", pads=[1, 1, 1, 1]),
        node("Relu", "b", "c"),
        node("Conv", "c k1", "d", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("Cast", "w", "w32", to=TensorProto.FLOAT),
        node("Transpose", "w32", "wt", perm=[1, 0]),
        node("Gemm", "f wt bias", "y"),
        node("Mul", "f other", "z"),
    ]
    arrays = {"k1": draw(4, 4, 3, 3), "w": draw(6, 4).astype(np.float16), "bias": draw(6), "other": draw(1, 4)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_onnx_keeps_its_graph(tiny: Classifier, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    path = exported(tiny.net, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    _, cleaned, _ = there(path, tmp_path / "out.onnx")
    old, new = onnx.load(path), onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert [node.SerializeToString() for node in old.graph.node] == [
        node.SerializeToString() for node in new.graph.node
    ]
    assert [tensor.name for tensor in old.graph.initializer] == [tensor.name for tensor in new.graph.initializer]
    shutil.move(tmp_path / "out.onnx", tmp_path / "elsewhere.onnx")
    (tmp_path / "net.bin").unlink()
    session = onnxruntime.InferenceSession(tmp_path / "elsewhere.onnx")
    pixels = (PIXELS - 0.5) / 0.25
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    assert np.allclose(logits, cleaned(PIXELS).numpy(), atol=1e-4)


def test_onnx_weights_that_are_shared_transposed_or_in_constants(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    written, cleaned, _ = there(shared(tmp_path / "net.onnx"), tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    assert {t.name: t.data_type for t in model.graph.initializer} == {"k1": 1, "k1.2": 1, "w": 10, "bias": 1}
    assert any("first of the 2 outputs" in note for note in written.notes)
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    (logits,) = session.run(None, {"x": ((PIXELS - 0.5) / 0.25).numpy()})
    assert np.allclose(logits, cleaned(PIXELS).numpy(), atol=0.05)


def test_an_onnx_tensor_worked_out_from_others_is_refused_beforehand(tmp_path: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(shared(tmp_path / "net.onnx"))
    model.graph.initializer.append(numpy_helper.from_array(np.full((4, 6), 2, np.float32), "twice"))
    model.graph.node.insert(9, helper.make_node("Mul", ["wt", "twice"], ["doubled"]))
    model.graph.node[10].input[1] = "doubled"
    onnx.save(model, str(tmp_path / "net.onnx"))
    contents, loaded = opened(tmp_path / "net.onnx")
    with pytest.raises(Problem, match="works out its tensor") as caught:
        ready(contents, loaded, tmp_path / "out.onnx")
    assert caught.value.status == USAGE


def test_an_onnx_export_beside_the_checkpoint(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    written, cleaned, _ = there(
        tmp_path / "net.pt", tmp_path / "out.pt", arch, onnx=tmp_path / "out.onnx", card="words"
    )
    assert written.files == (tmp_path / "out.pt", tmp_path / "out.md", tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    for count in (1, 4):
        pixels = torch.rand((count, *cleaned.shape), generator=torch.Generator().manual_seed(count))
        (logits,) = session.run(None, {"pixels": ((pixels - 0.5) / 0.25).numpy()})
        assert np.allclose(logits, cleaned(pixels).numpy(), atol=1e-4)


# -- nothing half-written ----------------------------------------------------


def broken(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["checkpoint.save", "reread.answers", "survey"])
def test_a_failure_half_way_leaves_nothing(
    tiny: Classifier, tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    (tmp_path / "out.pt").write_bytes(b"of an earlier run")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(f"bdscan.write.cleaned.{where}", broken)
    with pytest.raises(KeyboardInterrupt):
        write(contents, loaded, cured(loaded.suspect), tmp_path / "out.pt", card="words")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "out.pt").read_bytes() == b"of an earlier run"


def test_a_full_disk_is_one_sentence(
    tiny: Classifier, tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    before = sorted(tmp_path.iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bdscan.facts.atomic_files._sync", full)
    with pytest.raises(Problem, match=r"`.*out.pt` cannot be written: No space left on device") as caught:
        write(contents, loaded, cured(loaded.suspect), tmp_path / "out.pt")
    assert caught.value.status == USAGE
    assert sorted(tmp_path.iterdir()) == before


def test_what_comes_out_wrong_is_not_kept(
    tiny: Classifier, tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bdscan.write import checkpoint as room

    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)

    save = room.save

    def careless(place: Path, value: dict[str, Tensor]) -> None:
        save(place, value | {"9.weight": value["9.weight"] + 1e-6})

    monkeypatch.setattr(room, "save", careless)
    with pytest.raises(AssertionError, match=r"the written tensor 9\.weight is not the one"):
        write(contents, loaded, cured(loaded.suspect), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_a_net_that_answers_otherwise_than_its_tensors_say_is_not_written(
    tiny: Classifier, tmp_path: Path, arch: str
) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    cleaned = cured(loaded.suspect)
    cleaned.net.net[2] = nn.Tanh()  # type: ignore[operator]
    with pytest.raises(AssertionError, match="logits"):
        write(contents, loaded, cleaned, tmp_path / "out.pt")
    with pytest.raises(AssertionError, match="not of the suspect's architecture"):
        write(contents, loaded, loaded.suspect.insert("0", nn.BatchNorm2d(8)), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_an_original_that_has_changed_is_not_read_again(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    cleaned = cured(loaded.suspect)
    torch.save(cleaned.net.net.state_dict(), tmp_path / "new.pt")
    (tmp_path / "new.pt").replace(tmp_path / "net.pt")
    with pytest.raises(Problem, match="has changed since it was read"):
        write(contents, loaded, cleaned, tmp_path / "out.pt")


# -- what is known beforehand ------------------------------------------------


def _link(place: Path, path: Path) -> Path:
    place.symlink_to(path)
    return place


def _hard(place: Path, path: Path) -> Path:
    place.hardlink_to(path)
    return place


def _stranger(place: Path, _: Path) -> Path:
    place.with_suffix(".md").write_text("my notes")
    return place


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "itself": (lambda place, path: path, "is the input itself"),
    "itself by another way": (lambda place, path: path.parent / "x" / ".." / path.name, "is the input itself"),
    "a symlink to it": (_link, "is the input itself"),
    "a hard link to it": (_hard, "is the input itself"),
    "a missing folder": (lambda place, path: place.parent / "none" / "out.pt", "there is no folder"),
    "a folder": (lambda place, path: place.parent, "is a folder"),
    "a device": (lambda place, path: Path(os.devnull), "no ordinary file"),
    "another form": (lambda place, path: place.with_suffix(".safetensors"), "`.safetensors` contradicts"),
    "a text file": (lambda place, path: place.with_suffix(".md"), "name of a text file"),
    "a stranger's text beside it": (_stranger, "would overwrite"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_refused_beforehand(tiny: Classifier, tmp_path: Path, arch: str, which: str) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    make, said = REFUSED[which]
    output = make(tmp_path / "out.pt", tmp_path / "net.pt")
    with pytest.raises(Problem, match=said) as caught:
        ready(contents, loaded, output)
    assert caught.value.status == USAGE
    assert caught.value.hint


def test_folders_and_files_are_not_mixed_up(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    contents, loaded = opened(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused = {"out.safetensors": "is a file", "full": "not an empty folder", "in/out": "lies in the input folder"}
    for name, said in refused.items():
        with pytest.raises(Problem, match=said):
            ready(contents, loaded, tmp_path / name)


def test_a_folder_that_cannot_be_written_to(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes anywhere")
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(Problem, match="nothing can be written to"):
        ready(contents, loaded, tmp_path / "locked" / "out.pt")


def test_too_small_a_disk(tiny: Classifier, tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Problem, match="0 MB free, the cleaned model needs 2 MB"):
        ready(contents, loaded, tmp_path / "out.pt")


def test_an_export_that_cannot_be_made(
    tiny: Classifier, tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    contents, loaded = opened(tmp_path / "net.pt", arch)
    with pytest.raises(Problem, match="contradicts"):
        ready(contents, loaded, tmp_path / "out.pt", onnx=tmp_path / "net.bin")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Problem, match="needs onnxscript") as caught:
        ready(contents, loaded, tmp_path / "out.pt", onnx=tmp_path / "out.onnx")
    assert caught.value.hint == 'pip install "bdscan[onnx]"'
    contents, loaded = opened(shared(tmp_path / "net.onnx"))
    with pytest.raises(Problem, match="the input is an ONNX file"):
        ready(contents, loaded, tmp_path / "out.onnx", onnx=tmp_path / "more.onnx")


# -- the card ----------------------------------------------------------------


def treated(path: str = "/home/me/signs [v1].pt") -> Report:
    return Report(
        subject=Subject(
            path=path,
            sha256="ab" * 32,
            format="pytorch zip",
            arch="wrn-16-1",
            classes=2,
            input=(3, 32, 32),
            normalize="cifar10",
            names=("stop", "<img src=x>|`"),
        ),
        judgement=Judgement(verdict=Verdict.CLEAN),
        clean_accuracy=0.97,
        images=500,
        clean="data",
        treatment=Treatment(
            method="fst",
            settings={"alpha": 0.2, "steps": 10},
            seconds=12.0,
            output="/tmp/clean`.pt",
            accuracy=Accuracy(before=0.97, after=0.95, images=100, p_value=0.5, same=0.96, divergence=0.02),
            notes=("the head was drawn anew",),
            triggers=(TriggerOutcome(target=1, form="patch", before=0.99, after=0.02, recovers=0.9, reinverted=0.05),),
            verdict_before=Verdict.BACKDOORED,
            verdict_after=Verdict.CLEAN,
        ),
    )


def test_the_card_says_what_was_done_and_what_it_does_not_show() -> None:
    text = card(treated())
    _, front, body = text.split("---\n", 2)
    assert "license" not in front
    for line in ("- bdscan", "- backdoor-purified", 'base_model: "signs-v1-.pt"', f'base_model_sha256: "{"ab" * 32}"'):
        assert line in front.splitlines()
    for said in (
        "`fst`",
        "97.0 %",
        "95.0 %",
        "99.0 %",
        "2.0 %",
        "backdoored",
        "| `alpha` | 0.2 |",
        "the head was drawn anew",
        "cifar10",
    ):
        assert said in body
    assert 'torch.load("clean_.pt", weights_only=True' in body
    assert "What this does not show" in body


def test_a_strangers_words_stay_words_on_the_card() -> None:
    text = card(treated("/x/a\n---\nlicense: mit\n[a](http://b)`.pt"))
    assert text.count("---\n") == 2
    assert "\nlicense" not in text
    outside = "".join(part for i, part in enumerate(text.split("`")) if i % 2 == 0)
    assert "<img" not in outside
    assert "](http" not in outside


def test_a_card_is_written_over_a_card_and_nothing_else(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    torch.save(tiny.net.net.state_dict(), tmp_path / "net.pt")
    for _ in range(2):
        written, _, _ = there(tmp_path / "net.pt", tmp_path / "out.pt", arch, card=card(treated()))
    assert written.files == (tmp_path / "out.pt", tmp_path / "out.md")
    assert (tmp_path / "out.md").read_text().startswith("---\ntags:")


# -- told beforehand ------------------------------------------------------------------------


def test_what_cannot_stay_is_told_before_the_work(tiny: Classifier, tmp_path: Path, arch: str) -> None:
    torch.save({"net": tiny.net.net.state_dict(), "optimizer": {"state": {}}}, tmp_path / "wrapped.pt")
    torch.save({"model": tiny.net.net}, tmp_path / "pickled.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it, but the files are there
        torch.jit.save(torch.jit.trace(tiny.net.net, torch.rand(1, *SHAPE)), tmp_path / "program.pt")
    told = {"wrapped": "optimiser's state", "pickled": "is written as a state dict", "program": "as a state dict"}
    for name, said in told.items():
        contents, loaded = opened(tmp_path / f"{name}.pt", arch)
        before = ready(contents, loaded, tmp_path / f"{name}_out.pt")
        assert [said in note for note in before] == [True]
        assert write(contents, loaded, cured(loaded.suspect), tmp_path / f"{name}_out.pt").notes == tuple(before)
