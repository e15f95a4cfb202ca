"""New nets: built by name, and recognised again from the tensors they are saved with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ROOT

from bdscan.facts.problem import USAGE, Problem
from bdscan.load.arch import find
from bdscan.load.arch.fresh import fresh

OURS = ("wrn-16-1", "wrn-16-2", "preact-resnet-18", "resnet-18", "resnet-20", "vgg-11", "torchvision:mobilenet_v2")


@pytest.mark.parametrize("spec", OURS)
def test_what_is_built_is_recognised_and_answers_the_same(spec: str) -> None:
    torch.manual_seed(0)
    net = fresh(spec, 7, (3, 32, 32))
    assert net.training
    (found,) = find("auto", dict(net.state_dict()), None, {}, "somewhere")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = net.eval()(pixels)
        assert wanted.shape == (2, 7)
        assert torch.allclose(found.net.eval()(pixels), wanted, atol=1e-5)


@pytest.mark.parametrize("spec", ["wrn-10-1", "torchvision:resnet18", f"{ROOT / 'samples' / 'net.py'}:wrn16_1"])
def test_the_same_seed_gives_the_same_net(spec: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(fresh(spec, 12, (3, 32, 32)).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("spec", ["wrn-10-1", "resnet-20", "torchvision:resnet18"])
def test_grey_images_have_one_channel(spec: str) -> None:
    net = fresh(spec, 10, (1, 28, 28)).eval()
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("wrn-16", "did you mean `wrn-16-1`"),
        ("wrn-17-1", "did you mean `wrn-16-1`"),
        ("preactresnet18", "did you mean `preact-resnet-18`"),
        ("resnet20", "did you mean `resnet-20`"),
        ("vgg-12", "did you mean `vgg-11`"),
        ("auto", "names no net that bdscan can build"),
        ("torchvision:resnet19", "no classifier named `resnet19`"),
        ("nowhere.py:net", "no such file"),
        (f"{ROOT / 'samples' / 'net.py'}:wrn", "has no function `wrn`"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(spec: str, said: str) -> None:
    with pytest.raises(Problem) as problem:
        fresh(spec, 10, (3, 32, 32))
    assert said in problem.value.message
    assert problem.value.status == USAGE


def test_a_net_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))\n"
    )
    spec = f"{tmp_path / 'net.py'}:net"
    assert fresh(spec, 5, (3, 32, 32))(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(Problem, match="5 logits, but the data have 10 classes"):
        fresh(spec, 10, (3, 32, 32))
    with pytest.raises(Problem, match="takes no images of 3x28x28"):
        fresh(spec, 5, (3, 28, 28))
