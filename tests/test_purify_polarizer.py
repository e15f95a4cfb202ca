"""The polarizer: its layers vanish into the net exactly, wherever they stood, and what it is asked for is checked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as zoo
from planted_net import CLASSES, TARGET, images, net
from torch import Tensor, nn

from bdscan.facts.evidence import MaskedPattern, RecoveredTrigger
from bdscan.facts.finding import Finding, Level, Run
from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.method.case import PurifyCase
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.fold import MixedNet, fold, foldable_layers
from bdscan.purify.polarizer import Polarizer


def vgg11(*, norm: bool, num_classes: int) -> nn.Module:
    """Without the hundred million weights of its own classifier."""
    maps = zoo.vgg.make_layers(zoo.vgg.cfgs["A"], batch_norm=norm)
    return nn.Sequential(maps, nn.Flatten(), nn.Linear(512, num_classes))


NETS: dict[str, tuple[Callable[..., nn.Module], int, int]] = {  # how to build it, its side, how many places at least
    "resnet18": (zoo.resnet18, 32, 20),
    "vgg11": (partial(vgg11, norm=False), 32, 8),
    "vgg11_bn": (partial(vgg11, norm=True), 32, 8),
    "mobilenet_v2": (zoo.mobilenet_v2, 32, 35),
    "densenet121": (zoo.densenet121, 32, 120),
    "convnext_tiny": (zoo.convnext_tiny, 32, 36),
}


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)  # type: ignore[no-any-return]


def wrapped(built: nn.Module, side: int, classes: int) -> Classifier:
    """With statistics and scales that are not those of a new net."""
    generator = torch.Generator().manual_seed(1)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.2), (module.running_var, 0.5), (module.weight, 0.5)):
                assert tensor is not None
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
    return Classifier(Normalised(built, [0.5] * 3, [0.25] * 3), (3, side, side), classes)


def built(name: str) -> Classifier:
    make, side, _ = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrapped(make(num_classes=7), side, 7)


def stirred(plugged: MixedNet) -> None:
    """As after a long training."""
    generator = torch.Generator().manual_seed(2)
    for parameter in plugged.mixes.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)


def alike(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


@pytest.mark.parametrize("name", NETS)
def test_folding_is_exact_in_every_kind_of_net(name: str) -> None:
    suspect = built(name)
    pixels = torch.rand(3, *suspect.shape, generator=torch.Generator().manual_seed(3))
    cleaned, found = suspect.clone(), foldable_layers(suspect)
    assert len(found) >= NETS[name][2]
    plugged = MixedNet(cleaned, found, measure=False).eval()
    with torch.no_grad():
        assert alike(plugged(pixels), suspect(pixels)), "a new plug is the identity"
        stirred(plugged)
        before = plugged(pixels)
        plugged.fold()
        assert alike(cleaned(pixels), before)
    assert not alike(before, suspect(pixels)), "the plugs did something"
    assert [(k, v.shape) for k, v in cleaned.net.state_dict().items()] == [
        (k, v.shape) for k, v in suspect.net.state_dict().items()
    ]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v2"])
def test_a_folded_plug_is_a_layer_of_its_own(name: str) -> None:
    """Judged against a true 1x1 convolution behind the layer, at places in the middle of the net and at its end."""
    suspect = built(name)
    pixels = torch.rand(2, *suspect.shape, generator=torch.Generator().manual_seed(3))
    for place in foldable_layers(suspect)[:: len(foldable_layers(suspect)) // 3]:
        cleaned = suspect.clone()
        plugged = MixedNet(cleaned, [place], measure=False)
        stirred(plugged)
        plug: Any = plugged.mixes[0]
        layer = suspect.module(place)
        mix, shift = plug.mix, plug.shift(layer)
        plugged.fold()
        real = nn.Conv2d(len(mix), len(mix), 1, bias=shift is not None)
        real.weight.data.copy_(mix[:, :, None, None])
        if shift is not None and real.bias is not None:
            real.bias.data.copy_(shift)
        with torch.no_grad():
            assert alike(cleaned(pixels), suspect.insert(place, real)(pixels)), place


def test_only_layers_that_can_take_a_plug_are_chosen() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    twin = nn.Conv2d(8, 8, 3, padding=1)
    twin.weight = shared.weight
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2), Standardised(8, 8, 3), shared]
    layers += [twin, nn.Conv2d(8, 6, 1)]  # the head
    suspect = wrapped(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 12, 6)
    assert foldable_layers(suspect) == ("0", "3")


def test_other_libraries_nets_have_places_too() -> None:
    timm = pytest.importorskip("timm")
    suspect = wrapped(timm.create_model("convnext_atto", num_classes=5), 32, 5)
    assert len(foldable_layers(suspect)) > 4


def test_fold_multiplies_what_comes_out() -> None:
    layer, pixels = nn.Conv2d(3, 4, 3, padding=1), torch.rand(2, 3, 6, 6)
    mix, shift = torch.randn(4, 4), torch.randn(4)
    with torch.no_grad():
        wanted = torch.einsum("ij,njhw->nihw", mix, layer(pixels)) + shift[:, None, None]
        fold(layer, mix, shift)
        assert torch.allclose(layer(pixels), wanted, atol=1e-5)


def case(suspect: Classifier, *, shown: bool = False) -> PurifyCase:
    pixels = MaskedPattern(np.eye(16, dtype=np.float32), np.ones((16, 16, 3), np.float32))
    trigger = RecoveredTrigger(pixels=pixels, form="patch")
    finding = Finding(level=Level.BACKDOOR, message="shown", target=TARGET, trigger=trigger, demonstrated=True)
    runs = (Run(probe="inversion", findings=(finding,)),) if shown else ()
    return PurifyCase(suspect=suspect, clean=images(96, 3), runs=runs)


def quick(**settings: object) -> Polarizer:
    return Polarizer(**{"epochs": 1, "steps": 4, "search": 3, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["all", "stage", "one"])
def test_nothing_but_the_plugged_layers_changes(where: str) -> None:
    suspect = net(backdoored=True)
    treated = quick(where=where, measure=False, quiet=0.0)(case(suspect, shown=True))
    old, new = suspect.net.state_dict(), treated.suspect.net.state_dict()
    changed = {key.rpartition(".")[0].removeprefix("net.") for key in old if not torch.equal(old[key], new[key])}
    assert changed == set({"all": ("0", "4"), "stage": ("4",), "one": ("0",)}[where])
    assert "folded" in treated.notes[0]
    assert all(f"`{name}`" in treated.notes[0] for name in changed)


def test_batch_norms_are_measured_anew_but_never_learn() -> None:
    suspect = net(backdoored=True)
    new = quick(quiet=0.0)(case(suspect, shown=True)).suspect.net.state_dict()
    old = suspect.net.state_dict()
    assert not torch.equal(old["net.1.running_var"], new["net.1.running_var"])
    assert torch.equal(old["net.1.weight"], new["net.1.weight"])
    assert torch.equal(old["net.9.weight" if "net.9.weight" in old else "net.10.weight"], new["net.10.weight"])


def test_images_are_attacked_within_reach() -> None:
    suspect, settings = net(backdoored=True), Polarizer(reach=2.0)
    pixels = images(24, 3).pixels
    aim = torch.full((24,), TARGET)
    moved = settings._attack(suspect.net, pixels, aim)
    assert float((moved - pixels).flatten(1).norm(dim=1).max()) <= 2.0 * (pixels[0].numel() / 3072) ** 0.5 + 1e-5
    with torch.no_grad():
        gain = suspect(moved).softmax(1)[:, TARGET] - suspect(pixels).softmax(1)[:, TARGET]
    assert float(gain.mean()) > 0
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


def test_where_no_trigger_was_shown_images_are_attacked_one_by_one() -> None:
    suspect = net(backdoored=False)
    with_attack, without = (quick(attacked=weight)(case(suspect)).suspect.digest() for weight in (0.5, 0.0))
    assert with_attack != without
    with_attack, without = (quick(attacked=weight)(case(suspect, shown=True)).suspect.digest() for weight in (0.5, 0.0))
    assert with_attack == without


def test_nets_without_norms_are_treated_too() -> None:
    treated = quick()(case(net(backdoored=True, norm=False), shown=True))
    assert all(torch.isfinite(tensor).all() for tensor in treated.suspect.net.state_dict().values())


def test_two_images_a_class_are_enough_to_run() -> None:
    given = case(net(backdoored=True), shown=True)
    assert given.clean is not None
    few = given.clean.take(torch.arange(2 * CLASSES))
    quick()(PurifyCase(suspect=given.suspect, clean=few, runs=given.runs))


def test_a_net_without_convolutions_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.ReLU(), nn.Linear(20, CLASSES))
    with pytest.raises(Problem, match="convolution") as raised:
        quick()(case(wrapped(flat, 16, CLASSES)))
    assert raised.value.hint


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(Problem, match="`everywhere`") as raised:
        registry.configure("purify", "polarizer", {"where": "everywhere"})
    assert raised.value.status == USAGE


def test_layers_that_run_away_are_reported() -> None:
    with pytest.raises(Problem, match="ran away"):
        quick(rate=1e30)(case(copy.deepcopy(net(backdoored=True, norm=False))))
