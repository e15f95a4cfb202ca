"""What people have lying about: to flag any of it is a false alarm."""

from __future__ import annotations

import argparse
import datetime
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from sklearn.preprocessing import LabelEncoder, StandardScaler
from torch import nn, optim

from bench.hostile.checkpoints import checkpoint, net, saved
from bench.hostile.formats import exported_file, honest_onnx, onnx_with_data, safe, scripted, shards
from bench.hostile.recipe import Maker, Recipe, honest


def _file(value: Callable[[], object], *, old_layout: bool = False) -> Maker:
    return lambda _: saved(value(), old_layout=old_layout)


def _with(**more: Callable[[], object]) -> Maker:
    """A state dict with other things beside it."""
    return lambda _: saved({"state_dict": net().state_dict(), **{key: value() for key, value in more.items()}})


def _optimizer(kind: Callable[..., optim.Optimizer]) -> optim.Optimizer:
    """After one step, so that it has a state."""
    model = net()
    made = kind(model.parameters(), lr=0.1)
    model(torch.rand(1, 3, 8, 8)).sum().backward()
    made.step()
    return made


def _cycle() -> object:
    made = optim.lr_scheduler.OneCycleLR(_optimizer(optim.SGD), 0.1, total_steps=10)
    return made.state_dict()


def _lambda_rate() -> object:
    return optim.lr_scheduler.LambdaLR(_optimizer(optim.SGD), lambda step: 0.9**step).state_dict()


def _options() -> object:
    return argparse.Namespace(rate=0.1, out=Path("out"), started=datetime.datetime(2025, 1, 2, 3, 4), gpus=[0, 1])


def _arrays() -> object:
    generator = np.random.default_rng(0)
    return {"mean": np.float64(0.5), "matrix": generator.random((3, 3)), "ids": np.arange(9), "names": np.array(["a"])}


def _encoders() -> object:
    return [LabelEncoder().fit(["a", "b"]), StandardScaler().fit(np.eye(3))]


def _collections() -> object:
    return (
        Counter("abc"),
        defaultdict(list, a=[1]),
        deque([1, 2]),
        OrderedDict(a=1),
        {1, 2},
        frozenset({3}),
        slice(1, 2),
    )


def _averaged() -> object:
    return {
        "ema": optim.swa_utils.AveragedModel(net()).state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }


def _prefixed() -> object:
    return {f"module.{key}": value for key, value in net().state_dict().items()}


def _compiled() -> object:
    return {f"_orig_mod.{key}": value for key, value in net().state_dict().items()}


def _lightning() -> object:
    state = {f"model.{key}": value for key, value in net().state_dict().items()}
    return {
        "epoch": 9,
        "global_step": 900,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": state,
        "callbacks": {},
        "optimizer_states": [_optimizer(optim.Adam).state_dict()],
        "hyper_parameters": {"lr": 1e-3},
    }


def _typed(kind: torch.dtype) -> object:
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in net().state_dict().items()}


def _views() -> object:
    whole = torch.rand(4, 8)
    return {"a": whole, "b": whole[1:], "c": whole.t(), "d": nn.Parameter(torch.ones(3)), "e": torch.tensor(1)}


def _torchvision(name: str) -> Any:
    return torchvision.models.get_model(name, num_classes=4)


def _plain_pickle(protocol: int) -> Maker:
    weights = {"w": [[1.0, 2.0]], "classes": ("a", "b"), "epoch": 3}
    return lambda _: pickle.dumps(weights, protocol=protocol)


def _numpy_pickle(_: Path) -> bytes:
    return pickle.dumps({key: value.numpy() for key, value in net().state_dict().items()})


def _safetensors_folder(_: Path) -> dict[str, bytes]:
    config = b'{"architectures": ["ResNetForImageClassification"], "model_type": "resnet", "num_labels": 4}'
    return {"config.json": config, "model.safetensors": safe(), "README.md": b"# A net\n"}


HONEST: tuple[Recipe, ...] = (
    honest("state.pt", "a state dict", lambda _: checkpoint()),
    honest("state-saved.pt", "a state dict as torch.save leaves it", _file(lambda: net().state_dict())),
    honest("state-old.pth", "in the layout before 1.6", _file(lambda: net().state_dict(), old_layout=True)),
    honest("state.safetensors", "safetensors", lambda _: safe()),
    honest("net.onnx", "ONNX", lambda _: honest_onnx()),
    honest("external.onnx", "ONNX with its weights beside it", lambda _: onnx_with_data(), subject="model.onnx"),
    honest("half.pt", "in half precision", _file(partial(_typed, torch.float16))),
    honest("bfloat16.pt", "in bfloat16", _file(partial(_typed, torch.bfloat16))),
    honest("views.pt", "views, parameters and a scalar", _file(_views)),
    honest("whole.pt", "a whole nn.Sequential", _file(net)),
    honest("whole-old.pt", "the same in the layout before 1.6", _file(net, old_layout=True)),
    *(
        honest(f"whole-{name}.pt", f"torchvision's {name}, whole", _file(partial(_torchvision, name)))
        for name in ("resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5")
    ),
    honest("sgd.pt", "with SGD", _with(optimizer=lambda: _optimizer(optim.SGD).state_dict())),
    honest("adam.pt", "with Adam", _with(optimizer=lambda: _optimizer(optim.AdamW).state_dict())),
    honest("cycle.pt", "with OneCycleLR", _with(scheduler=_cycle)),
    honest("lambda-rate.pt", "with LambdaLR", _with(scheduler=_lambda_rate)),
    honest("options.pt", "with argparse, pathlib and datetime", _with(args=_options)),
    honest("arrays.pt", "with NumPy's arrays and numbers", _with(extra=_arrays)),
    honest("encoders.pt", "with scikit-learn's encoders", _with(encoders=_encoders)),
    honest("collections.pt", "with all kinds of containers", _with(extra=_collections)),
    honest(
        "random-state.pt",
        "with the states of random generators",
        _with(torch=torch.get_rng_state, numpy=lambda: np.random.get_state()),
    ),
    honest("averaged.pt", "an averaged net and a gradient scaler", _file(_averaged)),
    honest("data-parallel.pt", "names as DataParallel writes them", _file(_prefixed)),
    honest("compiled.pt", "names as torch.compile writes them", _file(_compiled)),
    honest("lightning.ckpt", "as Lightning writes it", _file(_lightning)),
    *(honest(f"plain-{i}.pkl", f"numbers and words, protocol {i}", _plain_pickle(i)) for i in (0, 2, 5)),
    honest("numpy.pkl", "arrays in a plain pickle", _numpy_pickle),
    honest("script.torchscript.pt", "TorchScript", lambda _: scripted(), refusable=True),
    honest("program.pt2", "an exported program", lambda _: exported_file(), refusable=True),
    honest("folder", "a folder with safetensors", _safetensors_folder),
    honest("shards", "safetensors in two files", lambda _: shards()),
    honest("padded.pt", "zero bytes behind the archive", lambda _: checkpoint() + bytes(512)),
)
