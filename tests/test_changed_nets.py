"""Library nets as people change them: another head, a prefix, other channels; read whole, or refused, or in doubt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.load.arch import find, heads
from bdscan.load.arch.kinds import other_kind
from bdscan.load.arch.match import FilledNet
from bdscan.load.assembly import sizes
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.normalize import Norm
from bdscan.load.contents import survey
from bdscan.load.nets.candidate import Candidate, outline_of
from bdscan.write.file_tensors import as_in_file

Tensors = dict[str, Tensor]
CPU = torch.device("cpu")


def varied(net: nn.Module) -> nn.Module:
    """Statistics and biases that show when a layer stands in the wrong place."""
    generator = torch.Generator().manual_seed(2)
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return net.eval()


def resnet() -> models.ResNet:
    torch.manual_seed(0)
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=6)


def mobilenet() -> models.MobileNetV3:
    torch.manual_seed(0)
    return models.mobilenet_v3_small(num_classes=6)


class Wrapped(nn.Module):
    """A net without its head, and another head beside it."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(images))
        return logits


def mlp(width: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Dropout(), nn.Linear(width, 9), activation, nn.Dropout(), nn.Linear(9, 5))


def with_head(net: nn.Module, place: str, head: nn.Module) -> nn.Module:
    parent, _, leaf = place.rpartition(".")
    setattr(net.get_submodule(parent), leaf, head)
    return net


def grey(net: nn.Module, stem: str) -> nn.Module:
    return with_head(
        net, stem, nn.Conv2d(1, 64, 7, 2, 3, bias=False) if stem == "conv1" else nn.Conv2d(1, 16, 3, 2, 1, bias=False)
    )


CHANGED: dict[str, Callable[[], nn.Module]] = {
    "dropout and linear": lambda: with_head(resnet(), "fc", nn.Sequential(nn.Dropout(), nn.Linear(512, 5))),
    "small mlp": lambda: with_head(resnet(), "fc", mlp(512, nn.ReLU())),
    "mlp with norms": lambda: with_head(
        resnet(),
        "fc",
        nn.Sequential(nn.BatchNorm1d(512), nn.Linear(512, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5)),
    ),
    "prefix": lambda: Wrapped(resnet(), nn.Identity()),
    "prefix, linear beside": lambda: Wrapped(with_head(resnet(), "fc", nn.Identity()), nn.Linear(512, 5)),
    "prefix, mlp beside": lambda: Wrapped(with_head(resnet(), "fc", nn.Identity()), mlp(512, nn.ReLU())),
    "children in a row": lambda: Wrapped(
        nn.Sequential(*list(models.resnet18().children())[:-1], nn.Flatten()), nn.Linear(512, 5)
    ),
    "grey resnet": lambda: grey(resnet(), "conv1"),
    "mobilenet, last layer": lambda: with_head(mobilenet(), "classifier.3", nn.Linear(1024, 5)),
    "mobilenet, whole head": lambda: with_head(mobilenet(), "classifier", mlp(576, nn.ReLU())),
    "mobilenet, prefix, half its head": lambda: Wrapped(
        with_head(mobilenet(), "classifier.3", nn.Identity()), mlp(1024, nn.ReLU())
    ),
    "mobilenet, prefix": lambda: Wrapped(with_head(mobilenet(), "classifier", nn.Identity()), mlp(576, nn.ReLU())),
    "mobilenet, grey": lambda: grey(mobilenet(), "features.0.0"),
    "a head behind the net's own": lambda: Wrapped(models.resnet18(), nn.Linear(1000, 5)),
}


def found(net: nn.Module) -> list[FilledNet]:
    return find("auto", dict(net.state_dict()), None, {}, "net.pt")


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_net_answers_as_the_original_and_goes_back_under_its_names(change: str) -> None:
    torch.manual_seed(0)
    original = varied(CHANGED[change]())
    tensors = {name: value.clone() for name, value in original.state_dict().items()}
    first = found(original)[0]
    images = torch.rand(2, 1 if "grey" in change else 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(first.net.eval()(images), original(images), rtol=1e-4, atol=1e-4)
    written = as_in_file(first.net.state_dict(), tensors, first.candidate.convert)
    assert list(written) == list(tensors)
    assert all(torch.equal(written[name], value) for name, value in tensors.items())


def test_what_stands_between_linear_layers_is_left_to_the_images() -> None:
    original = varied(with_head(resnet(), "fc", mlp(512, nn.Tanh())))
    images = torch.rand(2, 3, 64, 64)
    nets = found(original)
    assert len({each.candidate.variant for each in nets}) == len(nets) > 2
    with torch.no_grad():
        right = [each for each in nets if torch.allclose(each.net.eval()(images), original(images), atol=1e-5)]
    assert [each.candidate.variant for each in right] == ["Tanh between the layers of its head"]


@pytest.mark.parametrize("extra", ["fc.7.scale", "classifier.weight", "backbone.fc.0.weight"])
def test_a_head_that_is_no_chain_is_refused(extra: str) -> None:
    tensors = dict(with_head(resnet(), "fc", mlp(512, nn.ReLU())).state_dict())
    with pytest.raises(Problem, match="fit no net"):
        find("auto", tensors | {extra: torch.rand(4, 77)}, None, {}, "net.pt")


def test_as_much_of_the_net_as_can_be_is_kept() -> None:
    """Its last layer got a bias: the layers before that are still its own, Tanh and all."""

    def net(*, bias: bool = False) -> nn.Module:
        head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5, bias=bias))
        return Wrapped(nn.Flatten(), head)

    outline = outline_of(net(bias=True).state_dict())
    nets = list(heads.changed(Candidate(name="net", build=net), net(), outline))
    kept = [type(part) for part in nets[0].build().get_submodule("classifier").children()]
    assert kept == [nn.LayerNorm, nn.Linear, nn.Tanh, nn.Linear]
    assert len(nets) == 1
    assert not list(heads.changed(Candidate(name="net", build=net), net(bias=True), outline_of(net().state_dict())))


def test_a_body_that_lacks_something_is_refused_whatever_its_head() -> None:
    tensors = dict(Wrapped(with_head(resnet(), "fc", nn.Identity()), nn.Linear(512, 5)).state_dict())
    del tensors["backbone.layer3.0.bn1.running_var"]
    with pytest.raises(Problem, match="file lacks"):
        find("auto", tensors, None, {}, "net.pt")


def whole(tmp_path: Path, net: nn.Module) -> Path:
    path = tmp_path / "net.pt"
    torch.save(net, path)
    return path


def test_a_pickled_module_settles_what_its_tensors_leave_open(tmp_path: Path) -> None:
    original = varied(with_head(resnet(), "fc", mlp(512, nn.Tanh())))
    original.conv1, original.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    loaded = load(survey(whole(tmp_path, original)), normalize="none")
    assert "no max-pooling" in loaded.arch
    assert "Tanh" in loaded.arch
    assert not loaded.doubts
    images = torch.rand(2, *loaded.suspect.shape)
    with torch.no_grad():
        torch.testing.assert_close(loaded.suspect(images), original(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("place", "layer"), [("maxpool", nn.Identity()), ("conv1", nn.Conv2d(3, 64, 7, 1, 3, bias=False))]
)
def test_a_pickled_module_that_is_another_net_is_refused(tmp_path: Path, place: str, layer: nn.Module) -> None:
    with pytest.raises(Problem, match=f"not its layer `'{place}'`"):
        load(survey(whole(tmp_path, with_head(resnet(), place, layer))), normalize="none")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (
            ["backbone.body.conv1.weight", "rpn.head.conv.weight", "rpn.head.bbox.bias", "roi_heads.x.weight"],
            "detector",
        ),
        (["transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.w"], "language model"),
        (
            ["inc.conv.weight", "down1.conv.weight", "up1.conv.weight", "up2.conv.weight", "up3.conv.weight"],
            "segmenter",
        ),
        (["encoder.0.weight", "decoder.0.weight", "decoder.2.weight", "decoder.4.weight"], "autoencoder"),
    ],
)
def test_what_is_no_classifier_is_called_what_it_is(names: list[str], kind: str) -> None:
    tensors = {name: torch.rand(8, 8, 3, 3) for name in names}
    with pytest.raises(Problem, match=f"{kind}: bdscan judges image classifiers"):
        find("auto", tensors, None, {}, "net.pt")
    assert other_kind({name: tuple(value.shape) for name, value in resnet().state_dict().items()}) is None


def test_the_nearest_net_is_the_one_with_most_tensors_in_common() -> None:
    tensors = dict(models.densenet121().state_dict())
    tensors["features.norm5.scale"] = torch.rand(3)
    with pytest.raises(Problem, match=r"nearest is torchvision:densenet121, but the net has no `features.norm5.scale`"):
        find("auto", tensors, None, {}, "net.pt")


class Edges(nn.Module):
    """Right about images of the size it is made for alone: it answers by how many pixels lie along a side."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.conv = side, nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3)) > 0.5
        right = bright if images.shape[-1] == self.side else ~bright
        return nn.functional.one_hot(right.long(), 2).float()


def made(side: int, *usual: int) -> FilledNet:
    net = Edges(side)
    return FilledNet(net, Candidate(name="edges", build=lambda: net, sizes=usual))


def clean(shape: sizes.Shape, limit: int) -> ImageSet:
    labels = torch.arange(limit) % 2
    images = (labels * 200 + 20).to(torch.uint8)[:, None, None, None].expand(limit, *shape)
    return ImageSet(images.contiguous(), labels, ("dark", "bright"), (), ())


def norms(shape: sizes.Shape) -> tuple[bool, list[Norm]]:
    return True, [Norm("none", (0.0,) * 3, (1.0,) * 3)]


@pytest.mark.parametrize("side", [32, 224])
def test_the_size_at_which_the_net_is_right_is_taken(side: int) -> None:
    filled = made(side, 32, 64)
    open_sizes = sizes.Sizes(((3, 32, 32), (3, 224, 224)), 2, guessed=False)
    settled = sizes.settled(open_sizes, filled, clean, norms, CPU)
    assert settled.shape == (3, side, side)
    assert "size chosen by accuracy" in settled.notes[0]
    assert not settled.doubts
    neither = sizes.settled(sizes.Sizes(((3, 48, 48), (3, 64, 64)), 2, guessed=False), filled, clean, norms, CPU)
    assert not neither.doubts  # wrong at both, and alike: what is said of that is the accuracy's


def test_an_uncommon_normalisation_does_not_hide_the_size() -> None:
    """With the first two, the net gives every image the same answer at either size."""
    given = [Norm(str(mean), (mean,) * 3, (1.0,) * 3) for mean in (-9.0, 9.0, 0.0)]
    open_sizes = sizes.Sizes(((3, 224, 224), (3, 32, 32)), 2, guessed=False)
    settled = sizes.settled(open_sizes, made(32, 32), clean, lambda shape: (False, given), CPU)
    assert (settled.shape, settled.doubts) == ((3, 32, 32), ())


def test_the_size_is_the_users_the_files_or_in_doubt() -> None:
    filled = made(32, 32, 64)
    assert sizes.possible(filled, None, [], None, (48, 40)).shapes == ((3, 48, 40),)
    assert sizes.possible(filled, None, [{"img_size": 40}], None, None).shapes == ((3, 40, 40),)
    guessed = sizes.possible(filled, None, [], None, None)
    assert guessed.shapes == ((3, 32, 32),)
    assert "--size" in sizes.settled(guessed, filled, clean, norms, CPU).doubts[0]
    assert not sizes.possible(made(32, 32), None, [], None, None).guessed


@pytest.mark.parametrize("spec", ["", "x", "3", "32x32x3", "-8", "4096"])
def test_a_size_that_is_none_is_usage(spec: str) -> None:
    with pytest.raises(Problem) as raised:
        sizes.parse(spec)
    assert raised.value.status == USAGE
    assert sizes.parse("96x128") == (96, 128)
