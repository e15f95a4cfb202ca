"""Whole pickled modules: their layers made again from what the pickle says of them, and nothing of theirs run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.images.source import open_images
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import survey
from bdscan.write.cleaned import write


def images(channels: int, side: int, count: int = 3) -> Tensor:
    return torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(1))


def saved(net: nn.Module, path: Path, **options: bool) -> Path:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    torch.save(net.eval(), path, **options)
    return path


def opened(path: Path, data: Path | None = None) -> Loaded:
    return load(survey(path), normalize="none", images=open_images(str(data)) if data else None)


def labelled(net: nn.Module, path: Path, channels: int, side: int) -> Path:
    """Images with the labels that the net gives them."""
    drawn = (255 * images(channels, side, 200)).round().byte()
    with torch.no_grad():
        labels = net(drawn.float() / 255).argmax(1)
    np.savez(path, images=drawn.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    return path


def sequential() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8, eps=0.1), nn.LeakyReLU(0.3))
    return nn.Sequential(body, nn.AvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8 * 16 * 16, 5))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_sequential_is_what_it_says(tmp_path: Path, legacy: bool, wrapped: bool) -> None:
    net = sequential()
    whole = nn.DataParallel(net) if wrapped else net
    loaded = opened(saved(whole, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy))
    assert loaded.doubts == ()
    assert loaded.arch == "pickled Sequential"
    assert torch.equal(loaded.suspect(images(3, 32)), net(images(3, 32)))
    assert loaded.suspect.head.endswith("4")


SETTINGS: dict[str, Callable[[], list[nn.Module]]] = {
    "pools": lambda: [nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2, 1, 1, count_include_pad=False)],
    "adaptive": lambda: [nn.AdaptiveMaxPool2d((4, 5)), nn.AdaptiveAvgPool2d((None, 3))],
    "norms": lambda: [nn.GroupNorm(3, 3, eps=0.1), nn.InstanceNorm2d(3, affine=True), nn.LocalResponseNorm(3, 0.1)],
    "layer norm": lambda: [nn.LayerNorm((32, 32), bias=False)],
    "padding": lambda: [nn.ZeroPad2d((1, 0, 2, 0)), nn.ReflectionPad2d(1), nn.ReplicationPad2d((0, 1, 1, 0))],
    "circular": lambda: [nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular", groups=3, dilation=1)],
    "activations": lambda: [nn.ELU(0.7), nn.Hardtanh(-0.3, 0.4), nn.GELU("tanh"), nn.Softplus(2, 5), nn.SiLU()],
    "more activations": lambda: [nn.PReLU(3, 0.4), nn.ReLU6(), nn.CELU(0.4), nn.Softsign(), nn.Hardswish(), nn.Mish()],
    "ends": lambda: [nn.Sigmoid(), nn.Tanh(), nn.SELU(), nn.Identity()],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_the_files(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), *SETTINGS[name](), nn.Flatten())
    net.append(nn.Linear(net(images(3, 32)).shape[1], 4))
    assert torch.equal(opened(saved(net, tmp_path / "a.pt")).suspect(images(3, 32)), net(images(3, 32)))


def test_probabilities_at_the_end_are_left_out(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.LogSoftmax(1))
    suspect = opened(saved(net, tmp_path / "a.pt")).suspect
    assert suspect.shape == (1, 28, 28)
    assert torch.allclose(suspect(images(1, 28)), net[:2](images(1, 28)))


def test_rows_are_made_of_images_where_nothing_else_makes_them(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(768, 9), nn.ReLU(), nn.Sequential(nn.Dropout(), nn.Linear(9, 2)))
    data = labelled(nn.Sequential(nn.Flatten(), net), tmp_path / "data.npz", 3, 16)
    for images_at in (None, data):
        loaded = opened(saved(net, tmp_path / "a.pt"), images_at)
        assert (loaded.suspect.shape, loaded.doubts) == ((3, 16, 16), ())
        assert torch.equal(loaded.suspect(images(3, 16)), net(images(3, 16).flatten(1)))
    assert loaded.clean_accuracy == 1.0
    write(survey(tmp_path / "a.pt"), loaded, loaded.suspect, tmp_path / "b.pt")
    again = torch.load(tmp_path / "b.pt", weights_only=False)
    assert torch.equal(again(images(3, 16).flatten(1)), net(images(3, 16).flatten(1)))


# -- classes of their owner -----------------------------------------------------


class Shared(nn.Module):
    """As the tutorials write it: one pool for all, activations as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 30)
        self.dropout = nn.Dropout(0.3)
        self.fc2 = nn.Linear(30, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv2(self.pool(F.relu(self.conv1(x))))))
        return self.fc2(self.dropout(F.relu(self.fc1(x.flatten(1)))))  # type: ignore[no-any-return]


class Functions(nn.Module):
    """As PyTorch's own example: pooled once, by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
        self.fc1, self.fc2 = nn.Linear(1152, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x.flatten(1)))), 1)


class Grouped(nn.Module):
    """Norms beside one another, one activation for all, the pooling registered where it does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.act = nn.LeakyReLU(0.2)
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.act(norm(conv(x)))
        return self.head(self.gap(x).flatten(1))  # type: ignore[no-any-return]


class Stages(nn.Module):
    """Sequentials one after another, and a flattening between them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(196, 12), nn.Tanh(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "channels", "side"), [(Shared, 3, 32), (Functions, 1, 28), (Grouped, 3, 32), (Stages, 3, 32)]
)
def test_the_order_is_told_by_the_images(tmp_path: Path, kind: type[nn.Module], channels: int, side: int) -> None:
    torch.manual_seed(0)
    net = kind()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight, 2)
    path = saved(net, tmp_path / "a.pt")
    net(images(channels, side))
    loaded = opened(path, labelled(net, tmp_path / "images.npz", channels, side))
    assert loaded.clean_accuracy == 1
    assert f"`test_pickled_modules.{kind.__name__}`" in loaded.arch
    assert not any("inferred" in doubt for doubt in loaded.doubts)
    answers = loaded.suspect(images(channels, side)).log_softmax(1)
    assert torch.allclose(answers, net(images(channels, side)).log_softmax(1), atol=1e-5)
    assert any("do not show all" in doubt for doubt in opened(path).doubts), "without images it is a guess"


def test_an_order_that_the_images_speak_against_is_a_doubt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = saved(Shared(), tmp_path / "a.pt")
    torch.manual_seed(9)
    loaded = opened(path, labelled(sequential().append(nn.Linear(5, 4)).eval(), tmp_path / "images.npz", 3, 32))
    assert any("inferred" in doubt for doubt in loaded.doubts)


@pytest.mark.parametrize("legacy", [False, True])
def test_it_is_written_back(tmp_path: Path, legacy: bool) -> None:
    """In its own form where each tensor lies in the file by itself; else as a state dict, which is said."""
    path = saved(Shared(), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    contents, loaded = survey(path), opened(path)
    cleaned = loaded.suspect.clone()
    with torch.no_grad():
        cleaned.net.net.get_parameter("fc1.weight").mul_(0.5)
    written = write(contents, loaded, cleaned, tmp_path / "b.pt")
    if legacy:
        assert "state dict" in written.notes[0]
        state = torch.load(tmp_path / "b.pt", weights_only=True)
    else:
        assert written.notes == ()
        assert torch.equal(opened(tmp_path / "b.pt").suspect(images(3, 32)), cleaned(images(3, 32)))
        whole = torch.load(tmp_path / "b.pt", weights_only=False)  # our own
        assert isinstance(whole, Shared)
        state = whole.state_dict()
    assert set(state) == set(Shared().state_dict())
    assert torch.equal(state["fc1.weight"], cleaned.net.net.get_parameter("fc1.weight"))


# -- refusals ---------------------------------------------------------------------


def hooked(net: nn.Module) -> None:
    net[4].register_forward_hook(print)  # type: ignore[index]


def patched(net: nn.Module) -> None:
    net[4].forward = len  # type: ignore[index]


def unknown(net: nn.Module) -> None:
    net[4].temperature = 3.0  # type: ignore[index]


def contradicting(net: nn.Module) -> None:
    net[0][0]._reversed_padding_repeated_twice = [5, 5, 5, 5]  # type: ignore[index]


def huge(net: nn.Module) -> None:
    net[1].kernel_size = 1 << 40  # type: ignore[index]


def another(net: nn.Module) -> None:
    net[1] = nn.PixelShuffle(2)  # type: ignore[operator]


REFUSED = {
    "puts functions of its own": hooked,
    "a way to run of its own": patched,
    "`'temperature'`": unknown,
    "contradicts": contradicting,
    "`'kernel_size'`": huge,
    "PixelShuffle": another,
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_could_change_the_answer_is_refused_by_name(tmp_path: Path, said: str) -> None:
    net = sequential()
    REFUSED[said](net)
    torch.save(net, tmp_path / "a.pt")
    with pytest.raises(Problem, match="its pickled module cannot be read") as caught:
        opened(tmp_path / "a.pt")
    assert re.search(said, caught.value.message)


def test_layers_that_fit_in_no_order(tmp_path: Path) -> None:
    net = Shared()
    net.fc1 = nn.Linear(401, 30)
    torch.save(net, tmp_path / "a.pt")
    with pytest.raises(Problem, match="fit together in no usual order"):
        opened(tmp_path / "a.pt")
