"""Every layout of checkpoint gives the tensors that its author saved."""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from bdscan.facts.finding import Level
from bdscan.facts.problem import Problem
from bdscan.load.assembly.tensors import read
from bdscan.load.assembly.unwrap import Weights
from bdscan.load.contents import survey

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    body = OrderedDict(conv=nn.Conv2d(3, 4, 3, bias=False), norm=nn.BatchNorm2d(4), pool=nn.AdaptiveAvgPool2d(1))
    inner = nn.Sequential(body)
    return nn.Sequential(OrderedDict(features=inner, flat=nn.Flatten(), head=nn.Linear(4, 5))).eval()


@pytest.fixture(scope="module")
def state(net: nn.Module) -> State:
    return dict(net.state_dict())


def loaded(path: Path, value: object, **how: Any) -> Weights:
    torch.save(value, path, **how)
    return read(survey(path))


def same(found: State, wanted: State) -> bool:
    """Names in order, types, shapes and values."""
    pairs = zip(found.items(), wanted.items(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


Wrap = Callable[[State], object]
LAYOUTS: dict[str, tuple[Wrap, str | None, str]] = {
    "plain": (lambda s: s, None, ""),
    "ordered": (OrderedDict, None, ""),
    "state_dict": (lambda s: {"epoch": 3, "state_dict": s, "best_prec": torch.tensor(91.0)}, "state_dict", ""),
    "model_state_dict": (
        lambda s: {"model_state_dict": s, "optimizer": {"state": {0: {"m": s}}}},
        "model_state_dict",
        "",
    ),
    "netC": (lambda s: {"netC": s, "best_clean_acc": 91.2}, "netC", ""),
    "averaged first": (lambda s: {"state_dict": prefixed(s, "no."), "state_dict_ema": s}, "state_dict_ema", ""),
    "empty average": (lambda s: {"ema": None, "model_ema": {}, "model": s}, "model", ""),
    "nested": (lambda s: {"model": {"state_dict": s}}, "model.state_dict", ""),
    "unknown wrapper": (lambda s: {"trojan": s, "acc": torch.tensor(0.9)}, "trojan", ""),
    "in a tuple": (lambda s: (s, 12), "0", ""),
    "data parallel": (lambda s: prefixed(s, "module."), None, "module."),
    "compiled": (lambda s: {"model": prefixed(s, "module._orig_mod.")}, "model", "module._orig_mod."),
    "sequential": (lambda s: prefixed(s, "module.1."), None, "module.1."),
    "averaged model": (lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")}, None, "module."),
    "lightning": (
        lambda s: {
            "epoch": 1,
            "pytorch-lightning_version": "2.0",
            "state_dict": prefixed(s, "model."),
            "hyper_parameters": argparse.Namespace(rate=0.1, out=PosixPath("/x")),
            "optimizer_states": [{"state": {0: {"momentum": torch.ones(3)}}}],
        },
        "state_dict",
        "model.",
    ),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_wrapper_is_taken_off(layout: str, legacy: bool, state: State, tmp_path: Path) -> None:
    wrap, wrapper, prefix = LAYOUTS[layout]
    weights = loaded(tmp_path / "m.pth", wrap(state), _use_new_zipfile_serialization=not legacy)
    assert (weights.wrapper, weights.prefix) == (wrapper, prefix)
    assert same(weights.tensors, state)
    assert weights.described.startswith("pytorch legacy" if legacy else "pytorch zip")
    assert prefix in weights.described and (wrapper or "") in weights.described


def test_what_only_some_names_carry_is_no_prefix(tmp_path: Path) -> None:
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert same(loaded(tmp_path / "m.pt", mixed).tensors, mixed)
    two_layers = {"1.weight": torch.ones(2, 2), "1.bias": torch.ones(2)}
    assert loaded(tmp_path / "m.pt", two_layers).prefix == ""


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("parallel", [False, True])
def test_whole_modules(net: nn.Module, state: State, legacy: bool, parallel: bool, tmp_path: Path) -> None:
    whole = nn.DataParallel(net) if parallel else net
    weights = loaded(tmp_path / "m.pt", whole, _use_new_zipfile_serialization=not legacy)
    assert same(weights.tensors, state)
    assert weights.prefix == ("module." if parallel else "")
    assert all(danger.level == Level.NOTE for danger in survey(tmp_path / "m.pt").dangers)


def test_a_whole_torchvision_net_in_a_checkpoint(tmp_path: Path) -> None:
    net = torchvision.models.resnet18(num_classes=7)
    weights = loaded(tmp_path / "m.pt", {"model": net, "epoch": np.int64(3)})
    assert same(weights.tensors, dict(net.state_dict()))
    assert weights.metadata["module"] == "torchvision.models.resnet.ResNet"
    assert all(danger.level == Level.NOTE for danger in survey(tmp_path / "m.pt").dangers)


def test_buffers_that_are_not_saved_stay_out(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("transient", torch.ones(1), persistent=False)
    assert list(loaded(tmp_path / "m.pt", net).tensors) == ["weight", "bias"]


def attack_result(state: State, image: object) -> dict[str, object]:
    """As BackdoorBench saves it, with the truth about the poisoning inside."""
    container = {
        "bd_data_container": {
            "save_folder_path": "record/x",
            "data_dict": {np.int64(3): image},
            "save_file_format": ".png",
        },
        "original_index_array": np.arange(5),
        "poison_indicator": np.array([0, 0, 1, 0, 1]),
        "getitem_all": True,
    }
    told = {"model_name": "preactresnet18", "num_classes": 10, "img_size": (32, 32, 3), "clean_data": "cifar10"}
    return {**told, "model": state, "data_path": "../data", "bd_train": container, "bd_test": container, "target": 3}


@pytest.mark.parametrize("numpy", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_backdoorbench_results(state: State, where: str, numpy: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    image = {"path": "x.png", "other_info": [0, 3]} if where == "disk" else (picture, 0, 3)
    path = tmp_path / "attack_result.pt"
    torch.save(attack_result(state, image), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", f"{numpy}.multiarray".encode()))
    weights = read(survey(path))
    assert same(weights.tensors, state) and weights.wrapper == "model"
    expected = {"model_name": "preactresnet18", "num_classes": 10, "img_size": (32, 32, 3), "clean_data": "cifar10"}
    assert weights.metadata == expected
    assert {danger.level for danger in survey(path).dangers} == {Level.NOTE}


def test_safetensors_and_what_they_say_about_themselves(state: State, tmp_path: Path) -> None:
    save_file(prefixed(state, "module."), tmp_path / "m.safetensors", metadata={"arch": "x"})
    weights = read(survey(tmp_path / "m.safetensors"))
    assert weights.prefix == "module." and weights.metadata == {"arch": "x"}
    assert {name: tensor.tolist() for name, tensor in weights.tensors.items()} == {
        k: v.tolist() for k, v in state.items()
    }


def test_model_folders(state: State, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"holds no `model\.safetensors`"):
        survey(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(Problem, match=r"holds no `config\.json`"):
        survey(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "auto_map": {"AutoModel": "evil.py"}})
    )
    contents = survey(tmp_path)
    assert contents.weights.name == "pytorch_model.bin" and contents.path == tmp_path
    assert contents.config is not None and contents.config["architecture"] == "resnet18"
    assert [danger.level for danger in contents.dangers] == [Level.SUSPECT]
    save_file(state, tmp_path / "model.safetensors")
    assert survey(tmp_path).format == "safetensors"
    assert same(dict(sorted(read(survey(tmp_path)).tensors.items())), dict(sorted(state.items())))
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(Problem, match="not readable as the description"):
        survey(tmp_path)


def test_pickles_that_are_split_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(Problem, match="split over several pickles"):
        survey(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_gives_its_tensors_only(net: nn.Module, state: State, tmp_path: Path) -> None:
    torch.jit.script(net).save(str(tmp_path / "m.pt"))
    contents = survey(tmp_path / "m.pt")
    assert contents.format == "torchscript"
    assert same(read(contents).tensors, state)
    assert not contents.dangers and not contents.unread


@pytest.mark.filterwarnings("ignore")  # exporting warns about itself
def test_exported_programs(net: nn.Module, state: State, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(net, (torch.rand(1, 3, 8, 8),)), tmp_path / "m.pt2")
    contents = survey(tmp_path / "m.pt2")
    assert contents.format == "pt2"
    assert same(dict(sorted(read(contents).tensors.items())), dict(sorted(state.items())))


def test_plain_pickles_of_tensors(state: State, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(state))
    contents = survey(tmp_path / "m.pkl")
    assert contents.format == "bare pickle"
    assert same(read(contents).tensors, state)
    assert {danger.level for danger in contents.dangers} == {Level.NOTE}


@pytest.mark.parametrize(
    "kind", ["float64", "float16", "bfloat16", "int32", "uint8", "bool", "complex64", "uint16", "float8_e4m3fn"]
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_types_are_kept(kind: str, legacy: bool, tmp_path: Path) -> None:
    wanted = {"a": torch.tensor([[1, 0, 3]]).to(getattr(torch, kind)), "b": torch.ones(3, dtype=torch.uint8)}
    found = loaded(tmp_path / "m.pt", wanted, _use_new_zipfile_serialization=not legacy).tensors
    assert found["a"].dtype == wanted["a"].dtype
    assert bytes(found["a"].view(torch.uint8).flatten()) == bytes(wanted["a"].view(torch.uint8).flatten())


def test_views_parameters_and_odd_shapes(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    wanted = {
        "slice": whole[1:3, ::2],
        "turned": whole.t(),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(3),
        "parameter": nn.Parameter(whole),
        "channels_last": torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    found = loaded(tmp_path / "m.pt", wanted).tensors
    assert same(found, {name: tensor.detach() for name, tensor in wanted.items()})
    assert found["slice"].data_ptr() - found["turned"].data_ptr() == 6 * 4
    assert found["channels_last"].stride() == wanted["channels_last"].stride()


@pytest.mark.filterwarnings("ignore")  # quantisation is deprecated
@pytest.mark.parametrize("odd", ["sparse", "quantised", "empty"])
def test_tensors_that_cannot_be_judged_are_named(odd: str, tmp_path: Path) -> None:
    made = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "empty": lambda: torch.ones(3, device="meta"),
    }[odd]()
    with pytest.raises(Problem, match=odd):
        loaded(tmp_path / "m.pt", {"a": made})


@pytest.mark.parametrize("value", [{}, {"a": 1}, [1, 2], "text", {"optimizer": {"state": {0: {"m": torch.ones(2)}}}}])
def test_no_weights(value: object, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no weights"):
        loaded(tmp_path / "m.pt", value)


def test_several_nets_are_not_guessed_at(state: State, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="several nets"):
        loaded(tmp_path / "m.pt", {"teacher": state, "pupil": state})


def test_modules_nested_in_themselves_end(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    net._modules["again"] = net
    with pytest.raises(Problem, match="nested without end"):
        loaded(tmp_path / "m.pt", net)


@pytest.mark.parametrize("inside", [True, False])
def test_a_state_dict_without_its_parentheses_is_the_module(
    net: nn.Module, state: State, inside: bool, tmp_path: Path
) -> None:
    found = loaded(tmp_path / "a.pt", {"state_dict": net.state_dict} if inside else net.state_dict)
    assert same(found.tensors, state)
    assert found.kind == "pickled module"


def test_wrappers_are_looked_through_once(tmp_path: Path) -> None:
    keys = ("state_dict", "model", "net", "ema", "module", "weights", "params", "student", "network", "classifier")
    value: object = {"a": 1}
    for _ in range(8):
        value = {str(i): dict.fromkeys(keys, value) for i in range(100)} | dict.fromkeys(keys, value)
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump(value, file)
    before = time.process_time()
    with pytest.raises(Problem, match="no weights"):
        read(survey(tmp_path / "a.pkl"))
    assert time.process_time() - before < 5


def test_a_module_that_stands_everywhere_ends(net: nn.Module, tmp_path: Path) -> None:
    shared: nn.Module = nn.ParameterList(torch.zeros(1) for _ in range(200))
    for _ in range(6):
        shared = nn.ModuleList([shared] * 20)
    before = time.process_time()
    with pytest.raises(Problem, match="without end"):
        loaded(tmp_path / "a.pt", shared)
    assert time.process_time() - before < 10
