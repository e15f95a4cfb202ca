"""A net that is only looked at answers as before without its batch norms, and its norms can still be tapped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bdscan.load.nets import families
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.merged_norms import MergedNorm, with_norms_merged

SHAPE = (3, 32, 32)


def classifier(net: nn.Module) -> Classifier:
    """With statistics such as training leaves."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return Classifier(Normalised(net, (0.5,) * 3, (0.25,) * 3), SHAPE, classes=5)


def family(name: str) -> Classifier:
    torch.manual_seed(0)
    net = families.build(name, 5, SHAPE)
    assert net is not None
    return classifier(net)


def pixels() -> Tensor:
    return torch.rand((6, *SHAPE), generator=torch.Generator().manual_seed(2))


def kinds(suspect: Classifier, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in suspect.net.modules())


@pytest.mark.parametrize(("name", "left"), [("resnet-20", 0), ("vgg-11", 0), ("wrn-16-1", 7), ("preact-resnet-18", 9)])
def test_answers_gradients_and_taps_are_the_nets(name: str, left: int) -> None:
    """Norms that come before their convolution, as in pre-activation nets, stay."""
    suspect = family(name)
    merged = with_norms_merged(suspect)
    assert (kinds(merged, nn.BatchNorm2d), kinds(merged, MergedNorm) > 0) == (left, True)
    layers = [layer.name for layer in suspect.maps if isinstance(suspect.module(layer.name), nn.BatchNorm2d)]
    assert layers == [layer.name for layer in merged.maps if isinstance(merged.module(layer.name), nn.BatchNorm2d)]
    seen = []
    for each in (suspect, merged):
        each.net.double()  # in single precision a unit at zero may fall to either side
        given = pixels().double().requires_grad_()
        with each.tap(*layers) as taken:
            answers = each(given)
        (slope,) = torch.autograd.grad(answers[:, 0].sum(), given)
        seen.append([answers.detach(), slope, *(taken[layer].detach() for layer in layers)])
    for ours, theirs in zip(*seen, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * ours.norm()


def test_the_suspect_itself_is_not_touched() -> None:
    suspect = family("resnet-20")
    before = suspect.digest()
    with_norms_merged(suspect)
    assert suspect.digest() == before
    assert kinds(suspect, MergedNorm) == 0


class Shared(nn.Module):
    """One convolution in two places, with a norm behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.conv(self.one(self.conv(x)).relu())).relu()
        answers: Tensor = self.head(x.mean((2, 3)))
        return answers


class Skipped(Shared):
    """A convolution whose maps are also taken as they are."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        answers: Tensor = self.head((self.one(maps) + maps).relu().mean((2, 3)))
        return answers


@pytest.mark.parametrize("kind", [Shared, Skipped])
def test_what_stands_in_two_places_stays_as_it_is(kind: type[nn.Module]) -> None:
    suspect = classifier(kind())
    assert with_norms_merged(suspect) is suspect


def test_a_net_without_norms_is_its_own() -> None:
    suspect = classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5)))
    assert with_norms_merged(suspect) is suspect
