"""Nets recognised from their tensors: the right one, whole, and computing what the original computes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.problem import USAGE, Problem
from bdscan.load import nets
from bdscan.load.arch import find, from_torchvision, library_index
from bdscan.load.arch.fresh import fresh
from bdscan.load.arch.match import without_memory
from bdscan.load.nets.candidate import Candidate, outline_of

Tensors = dict[str, Tensor]


class Maker:
    """Random tensors under given names."""

    def __init__(self) -> None:
        self.made: Tensors = {}
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def conv(self, name: str, out: int, width: int, side: int = 3) -> None:
        self.made[f"{name}.weight"] = self.draw(out, width, side, side) / (width * side * side) ** 0.5

    def norm(self, name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            self.made[f"{name}.{part}"] = 0.3 * self.draw(width) + (part == "weight")
        self.made[f"{name}.running_var"] = 0.5 + self.draw(width).abs()
        self.made[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def linear(self, name: str, classes: int, width: int) -> None:
        self.made |= {f"{name}.weight": self.draw(classes, width), f"{name}.bias": self.draw(classes)}


def bn(t: Tensors, name: str, x: Tensor) -> Tensor:
    stats = (t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *stats)  # type: ignore[arg-type]


def cv(t: Tensors, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    weight = t[f"{name}.weight"]
    return F.conv2d(x, weight, t.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)


def head(t: Tensors, name: str, x: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)), t[f"{name}.weight"], t[f"{name}.bias"])


def pixels(side: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def scrambled(net: nn.Module) -> nn.Module:
    """Random statistics too, so that a norm in the wrong place shows."""
    generator = torch.Generator().manual_seed(2)
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return net.eval()


def found(tensors: Tensors, spec: str = "auto") -> nn.Module:
    return find(spec, tensors, None, {}, "net.pt")[0].net.eval()


def same(net: nn.Module, expected: Tensor, images: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def preact(final: str, widths: tuple[int, ...] = (8, 8, 16), blocks: int = 2, head_name: str = "linear") -> Tensors:
    made = Maker()
    made.conv("conv1", widths[0], 3)
    width = widths[0]
    for stage, out in enumerate(widths, 1):
        for i in range(blocks):
            name = f"layer{stage}.{i}"
            made.norm(f"{name}.bn1", width)
            made.conv(f"{name}.conv1", out, width)
            made.norm(f"{name}.bn2", out)
            made.conv(f"{name}.conv2", out, out)
            if i == 0 and (stage > 1 or width != out):
                made.conv(f"{name}.shortcut.0", out, width, 1)
            width = out
    if final:
        made.norm(final, width)
    made.linear(head_name, 7, width)
    return made.made


def run_preact(t: Tensors, x: Tensor, final: str, stages: int = 3, blocks: int = 2) -> Tensor:
    x = cv(t, "conv1", x)
    for stage in range(1, stages + 1):
        for i in range(blocks):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            out = F.relu(bn(t, f"{name}.bn1", x))
            x = cv(t, f"{name}.shortcut.0", out, stride) if f"{name}.shortcut.0.weight" in t else x
            out = cv(t, f"{name}.conv1", out, stride)
            x = x + cv(t, f"{name}.conv2", F.relu(bn(t, f"{name}.bn2", out)))
    return head(t, "linear", F.relu(bn(t, final, x)) if final else x)


@pytest.mark.parametrize("final", ["", "bn"])
def test_preact_resnet_with_and_without_its_last_norm(final: str) -> None:
    tensors = preact(final)
    same(found(tensors), run_preact(tensors, pixels(), final), pixels())


def test_shortcut_without_change_of_width_is_kept() -> None:
    tensors = preact("", (8, 8, 8))  # the second stage halves the size and keeps the width
    assert "layer2.0.shortcut.0.weight" in tensors
    same(found(tensors), run_preact(tensors, pixels(), ""), pixels())


def test_wide_resnet_with_biases_strides_last_and_goes_round_unactivated() -> None:
    t = preact("bn1")
    for name in [name for name in t if "conv" in name or "shortcut" in name]:
        t[name.replace("weight", "bias")] = torch.linspace(-1, 1, len(t[name]))
    x = cv(t, "conv1", pixels())
    for stage in (1, 2, 3):
        for i in range(2):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            out = cv(t, f"{name}.conv1", F.relu(bn(t, f"{name}.bn1", x)))
            out = cv(t, f"{name}.conv2", F.relu(bn(t, f"{name}.bn2", out)), stride)
            x = out + (cv(t, f"{name}.shortcut.0", x, stride) if f"{name}.shortcut.0.weight" in t else x)
    same(found(t), head(t, "linear", F.relu(bn(t, "bn1", x))), pixels())


def wrn(width: int = 2, blocks: int = 2, classes: int = 5, channels: int = 3) -> Tensors:
    made, at = Maker(), 4
    made.conv("conv1", at, channels)
    for stage in (1, 2, 3):
        out = 4 * width * 2 ** (stage - 1)
        for i in range(blocks):
            name = f"block{stage}.layer.{i}"
            made.norm(f"{name}.bn1", at)
            made.conv(f"{name}.conv1", out, at)
            made.norm(f"{name}.bn2", out)
            made.conv(f"{name}.conv2", out, out)
            if at != out:
                made.conv(f"{name}.convShortcut", out, at, 1)
            at = out
    made.norm("bn1", at)
    made.linear("fc", classes, at)
    return made.made


def run_wrn(t: Tensors, x: Tensor, blocks: int = 2) -> Tensor:
    x = cv(t, "conv1", x)
    for stage in (1, 2, 3):
        for i in range(blocks):
            name, stride = f"block{stage}.layer.{i}", 2 if stage > 1 and i == 0 else 1
            out = F.relu(bn(t, f"{name}.bn1", x))
            around = cv(t, f"{name}.convShortcut", out, stride) if f"{name}.convShortcut.weight" in t else x
            out = F.relu(bn(t, f"{name}.bn2", cv(t, f"{name}.conv1", out, stride)))
            x = around + cv(t, f"{name}.conv2", out)
    return head(t, "fc", F.relu(bn(t, "bn1", x)))


@pytest.mark.parametrize("width", [1, 2, 10])
def test_wide_resnet_of_any_width(width: int) -> None:
    tensors = wrn(width)
    same(found(tensors), run_wrn(tensors, pixels()), pixels())
    assert [c.name for c in nets.candidates(outline_of(tensors))] == [f"wrn-16-{width}"]


def test_grey_images_and_classes_come_from_the_tensors() -> None:
    tensors = wrn(channels=1, classes=43)
    same(found(tensors), run_wrn(tensors, pixels(28, 1)), pixels(28, 1))


def cifar_resnet(around: str, blocks: int = 3, head_name: str = "linear", stages: int = 3) -> Tensors:
    made, width = Maker(), 4
    made.conv("conv1", width, 3)
    made.norm("bn1", width)
    for stage in range(1, stages + 1):
        out = 4 << (stage - 1)
        for i in range(blocks):
            name = f"layer{stage}.{i}"
            for part, start in ((1, width), (2, out)):
                made.conv(f"{name}.conv{part}", out, start)
                made.norm(f"{name}.bn{part}", out)
            if around and width != out:
                made.conv(f"{name}.{around}.0", out, width, 1)
                made.norm(f"{name}.{around}.1", out)
            width = out
    made.linear(head_name, 6, width)
    return made.made


def run_cifar_resnet(
    t: Tensors, x: Tensor, around: str, blocks: int = 3, head_name: str = "linear", stages: int = 3
) -> Tensor:
    x = F.relu(bn(t, "bn1", cv(t, "conv1", x)))
    for stage in range(1, stages + 1):
        for i in range(blocks):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            out = F.relu(bn(t, f"{name}.bn1", cv(t, f"{name}.conv1", x, stride)))
            out = bn(t, f"{name}.bn2", cv(t, f"{name}.conv2", out))
            if stride == 2 and around:
                x = bn(t, f"{name}.{around}.1", cv(t, f"{name}.{around}.0", x, stride))
            elif stride == 2:  # option A: every other position, zeros around the channels
                quarter = out.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = F.relu(out + x)
    return head(t, head_name, x)


@pytest.mark.parametrize(
    ("around", "head_name", "stages"),
    [("", "linear", 3), ("shortcut", "linear", 4), ("downsample", "fc", 3), ("downsample", "fc", 4)],
)
def test_cifar_resnets_in_every_naming(around: str, head_name: str, stages: int) -> None:
    tensors = cifar_resnet(around, head_name=head_name, stages=stages)
    expected = run_cifar_resnet(tensors, pixels(), around, head_name=head_name, stages=stages)
    same(found(tensors), expected, pixels())


def test_what_tensors_do_not_show_is_left_open() -> None:
    padded = find("auto", cifar_resnet(""), None, {}, "net.pt")
    assert len({one.candidate.variant for one in padded}) == 2
    stemmed = find("auto", cifar_resnet("downsample", head_name="fc", stages=4), None, {}, "net.pt")
    assert ["no max-pooling" in one.candidate.variant for one in stemmed] == [True, False]
    assert [one.candidate.variant for one in find("auto", wrn(), None, {}, "net.pt")] == [""]


def test_counters_may_be_missing() -> None:
    tensors = {name: value for name, value in wrn().items() if not name.endswith("num_batches_tracked")}
    same(found(tensors), run_wrn(tensors, pixels()), pixels())


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", *(pytest.param(vgg, marks=pytest.mark.slow) for vgg in ("vgg11_bn", "vgg16"))]
)
def test_our_nets_compute_what_torchvisions_do(name: str) -> None:
    torch.manual_seed(0)
    original = scrambled(from_torchvision.models().get_model(name, weights=None, num_classes=7))
    tensors = dict(original.state_dict())
    candidate = next(iter(nets.candidates(outline_of(tensors))))
    assert name.rpartition("_")[0] in candidate.name or name in candidate.name
    assert candidate.sizes == (224,)
    images = pixels(64)
    with torch.no_grad():
        same(found(tensors), original(images), images)


def test_a_cifar_stem_is_not_taken_for_torchvisions() -> None:
    original = from_torchvision.models().resnet18(num_classes=10)
    original.conv1, original.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    scrambled(original)
    first = find("auto", dict(original.state_dict()), None, {}, "net.pt")[0]
    assert "3x3 stem" in first.candidate.name
    assert first.candidate.sizes == (32,)
    with torch.no_grad():
        same(first.net.eval(), original(pixels()), pixels())
    with pytest.raises(Problem, match=r"conv1.weight \(64x3x3x3, not 64x3x7x7\)"):
        find("torchvision:resnet18", dict(original.state_dict()), None, {}, "net.pt")


def mobilenet() -> Tensors:
    made, width = Maker(), 8
    made.conv("conv1", width, 3)
    made.norm("bn1", width)
    for i, (out, stride) in enumerate([(4, 1), (6, 1), (6, 1), (8, 2), (8, 1)]):
        name, middle = f"layers.{i}", width * (1 if i == 0 else 6)
        made.conv(f"{name}.conv1", middle, width, 1)
        made.conv(f"{name}.conv2", middle, 1)
        made.conv(f"{name}.conv3", out, middle, 1)
        for part, size in ((1, middle), (2, middle), (3, out)):
            made.norm(f"{name}.bn{part}", size)
        if stride == 1 and width != out:
            made.conv(f"{name}.shortcut.0", out, width, 1)
            made.norm(f"{name}.shortcut.1", out)
        width = out
    made.conv("conv2", 20, width, 1)
    made.norm("bn2", 20)
    made.linear("linear", 9, 20)
    return made.made


def test_mobilenet_tells_its_strides_by_its_shortcuts() -> None:
    t = mobilenet()
    x = F.relu(bn(t, "bn1", cv(t, "conv1", pixels())))
    for i in range(5):
        name, stride = f"layers.{i}", 2 if i == 3 else 1
        middle = t[f"{name}.conv2.weight"].shape[0]
        out = F.relu(bn(t, f"{name}.bn1", cv(t, f"{name}.conv1", x)))
        out = F.relu(bn(t, f"{name}.bn2", cv(t, f"{name}.conv2", out, stride, middle)))
        out = bn(t, f"{name}.bn3", cv(t, f"{name}.conv3", out))
        if f"{name}.shortcut.0.weight" in t:
            x = bn(t, f"{name}.shortcut.1", cv(t, f"{name}.shortcut.0", x))
        x = out + x if stride == 1 else out
    x = F.relu(bn(t, "bn2", cv(t, "conv2", x)))
    same(found(t), head(t, "linear", x), pixels())


def cifar_vgg(classifier: nn.Module) -> nn.Module:
    layers, width = list[nn.Module](), 3
    for out in (8, 0, 16, 16, 0, 16, 0, 16, 0, 16, 0):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()] if out else [nn.MaxPool2d(2)]
        width = out or width
    net = nn.Module()
    net.features, net.classifier = nn.Sequential(*layers, nn.AvgPool2d(1, 1)), classifier
    net.forward = lambda x: net.classifier(net.features(x).flatten(1))  # type: ignore[operator]
    return scrambled(net)


@pytest.mark.parametrize(
    "classifier",
    [
        nn.Linear(16, 5),
        nn.Sequential(nn.Dropout(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5)),
    ],
)
def test_cifar_vgg(classifier: nn.Module) -> None:
    original = cifar_vgg(classifier)
    tensors = dict(original.state_dict())
    assert next(iter(nets.candidates(outline_of(tensors)))).sizes == (32,)
    with torch.no_grad():
        same(found(tensors), original(pixels()), pixels())


@pytest.mark.parametrize("make", [wrn, mobilenet, lambda: preact("bn"), lambda: cifar_resnet("shortcut")])
def test_one_tensor_more_or_less_is_refused(make: object) -> None:
    tensors: Tensors = make()  # type: ignore[operator]
    with pytest.raises(Problem, match=r"no `layer9\.weight`") as refused:
        found({**tensors, "layer9.weight": torch.ones(3)})
    assert "--arch FILE.py:factory" in refused.value.hint
    for name in [name for name in tensors if name.endswith((".bias", "running_var"))][::7]:
        with pytest.raises(Problem, match="file lacks"):
            found({other: value for other, value in tensors.items() if other != name})


def test_another_shape_is_refused_with_both_shapes() -> None:
    tensors = wrn()
    tensors["bn1.bias"] = torch.ones(5)
    with pytest.raises(Problem, match=r"`bn1.bias \(5, not 32\)`"):
        found(tensors)


_QUICK = ["alexnet", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"]
_HEAVY = ["densenet121", "efficientnet_b0", "vit_b_16", "convnext_tiny", "swin_t", "regnet_y_400mf", "googlenet"]


@pytest.mark.parametrize("name", [*_QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in _HEAVY)])
def test_torchvisions_nets_are_recognised(name: str) -> None:
    torch.manual_seed(0)
    settings = {"init_weights": False} if name == "googlenet" else {}
    original = scrambled(from_torchvision.models().get_model(name, weights=None, num_classes=11, **settings))
    first = find("auto", dict(original.state_dict()), None, {}, "net.pt")[0]
    assert first.candidate.name == f"torchvision:{name}"
    images = pixels(first.candidate.sizes[0])
    with torch.no_grad():
        same(first.net.eval(), original(images), images)


@pytest.mark.parametrize("name", ["alexnet", "shufflenet_v2_x1_0", pytest.param("swin_t", marks=pytest.mark.slow)])
def test_the_index_has_torchvisions_nets_as_they_are(name: str) -> None:
    library = from_torchvision.models()
    net = without_memory(Candidate(name=name, build=lambda: library.get_model(name, weights=None)), 2000)
    assert library_index.sketch(outline_of(net.state_dict())) in json.loads(library_index.INDEX.read_text())


def test_the_index_covers_torchvision() -> None:
    library = from_torchvision.models()
    listed = {name for names in json.loads(library_index.INDEX.read_text()).values() for name in names.split()}
    assert listed >= {f"torchvision:{name}" for name in library.list_models(module=library)}


def test_inplace_activations_are_made_harmless() -> None:
    net = found(dict(from_torchvision.models().mobilenet_v2(num_classes=4).state_dict()))
    assert not any(getattr(module, "inplace", False) for module in net.modules())


def test_random_numbers_are_left_alone() -> None:
    tensors = wrn()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found(tensors)
    assert torch.equal(before, torch.get_rng_state())


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.a, self.b = nn.Linear(12, width), nn.Linear(width, classes)
    def forward(self, x):
        return self.b(torch.relu(self.a(x.flatten(1))))

def named(num_classes=10): return Net(num_classes)
def placed(k): return Net(k)
def bare(): return Net(3)
def wrong_default(width=4): return Net(3, width)
def broken(num_classes): return 1 / 0
def text(num_classes): return "net"
def two(a, b): return Net(a)
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    return path


def _own() -> Tensors:
    return {
        "a.weight": torch.rand(4, 12),
        "a.bias": torch.rand(4),
        "b.weight": torch.rand(3, 4),
        "b.bias": torch.rand(3),
    }


@pytest.mark.parametrize("name", ["named", "placed", "bare", "wrong_default"])
def test_the_users_own_factory_is_called_as_it_can_be(factories: Path, name: str) -> None:
    tensors, images = _own(), torch.rand(2, 3, 2, 2)
    hidden = F.relu(F.linear(images.flatten(1), tensors["a.weight"], tensors["a.bias"]))
    same(found(tensors, f"{factories}:{name}"), F.linear(hidden, tensors["b.weight"], tensors["b.bias"]), images)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "line 16: ZeroDivisionError"),
        ("text", "returned a str"),
        ("absent", "no function `absent`"),
        ("two", "cannot be called"),
    ],
)
def test_a_fault_in_the_users_factory_names_the_file(factories: Path, name: str, said: str) -> None:
    with pytest.raises(Problem, match=said) as raised:
        found(_own(), f"{factories}:{name}")
    assert raised.value.status == USAGE
    assert "mine.py" in raised.value.message


def test_a_fault_in_the_users_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import sys\nsys.exit('no')\n")
    with pytest.raises(Problem, match="line 2: SystemExit") as raised:
        found(_own(), f"{path}:net")
    assert raised.value.status == USAGE


def test_unknown_names_are_usage(tmp_path: Path) -> None:
    timm = ("timm:resnet19x",) if importlib.util.find_spec("timm") else ()
    for spec in ("resnet18", "torchvision:resnet19", *timm, f"{tmp_path}/none.py:net"):
        with pytest.raises(Problem) as raised:
            found(wrn(), spec)
        assert raised.value.status == USAGE, spec


def test_a_broken_torchvision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def broken(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(Problem, match="torchvision does not work") as raised:
        found({"a": torch.ones(1)}, "torchvision:resnet18")
    assert "index-url" in raised.value.hint
    found(wrn())  # ours need none of it


def test_timms_transformers_are_recognised_by_their_widths() -> None:
    timm = pytest.importorskip("timm")
    original = timm.create_model("vit_tiny_patch16_224", num_classes=6, img_size=64).eval()
    first = find("auto", dict(original.state_dict()), None, {}, "net.pt")[0]
    assert first.candidate.sizes == (64,)
    assert first.candidate.fixed_size
    with torch.no_grad():
        same(first.net.eval(), original(pixels(64)), pixels(64))


def test_transformers_resnet_is_renamed(tmp_path: Path) -> None:
    theirs = {"layer": ".layers.", "conv": ".layer.{}.convolution.", "bn": ".layer.{}.normalization."}
    tensors = cifar_resnet("downsample", head_name="fc", stages=4)
    tensors["conv1.weight"] = torch.rand(4, 3, 7, 7)
    renamed: Tensors = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "fc":
            other = f"classifier.1.{parts[1]}"
        elif parts[0] in ("conv1", "bn1"):
            kind = "convolution" if parts[0] == "conv1" else "normalization"
            other = f"resnet.embedder.embedder.{kind}.{parts[1]}"
        elif parts[2] == "downsample":
            kind = "convolution" if parts[3] == "0" else "normalization"
            other = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}.shortcut.{kind}.{parts[4]}"
        else:
            kind = theirs[parts[2][:-1]].format(int(parts[2][-1]) - 1)
            other = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}{kind}{parts[3]}"
        renamed[other] = value
    config = {"architectures": ["ResNetForImageClassification"], "hidden_act": "relu"}
    one = find("auto", renamed, config, {}, "folder")[0].net.eval()
    same(one, found(tensors)(pixels(64)), pixels(64))


def test_transformers_vit_is_renamed() -> None:
    made, width = Maker(), 24
    t: Tensors = made.made
    t["vit.embeddings.cls_token"] = made.draw(1, 1, width)
    t["vit.embeddings.position_embeddings"] = made.draw(1, 17, width)
    made.conv("vit.embeddings.patch_embeddings.projection", width, 3, 8)
    t["vit.embeddings.patch_embeddings.projection.bias"] = made.draw(width)
    for i in range(2):
        name = f"vit.encoder.layer.{i}"
        for part, (out, start) in {
            **dict.fromkeys((f"attention.attention.{kind}" for kind in ("query", "key", "value")), (width, width)),
            "attention.output.dense": (width, width),
            "intermediate.dense": (32, width),
            "output.dense": (width, 32),
        }.items():
            made.linear(f"{name}.{part}", out, start)
        for part in ("layernorm_before", "layernorm_after"):
            t[f"{name}.{part}.weight"], t[f"{name}.{part}.bias"] = made.draw(width), made.draw(width)
    t["vit.layernorm.weight"], t["vit.layernorm.bias"] = made.draw(width), made.draw(width)
    made.linear("classifier", 5, width)
    config = {"architectures": ["ViTForImageClassification"], "num_attention_heads": 3, "layer_norm_eps": 1e-12}
    first = find("auto", t, config, {}, "folder")[0]
    assert first.candidate.sizes == (32,)
    with torch.no_grad():
        same(first.net.eval(), run_vit(t, pixels(), 3), pixels())


def run_vit(t: Tensors, x: Tensor, heads: int) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-12)

    patches = "vit.embeddings.patch_embeddings.projection"
    x = F.conv2d(x, t[f"{patches}.weight"], t[f"{patches}.bias"], 8).flatten(2).mT
    x = torch.cat([t["vit.embeddings.cls_token"].expand(len(x), 1, -1), x], 1) + t["vit.embeddings.position_embeddings"]
    for i in range(2):
        name = f"vit.encoder.layer.{i}"
        kept = norm(f"{name}.layernorm_before", x)
        parts = (linear(f"{name}.attention.attention.{kind}", kept) for kind in ("query", "key", "value"))
        split = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts]
        seen = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        x = x + linear(f"{name}.attention.output.dense", seen)
        kept = norm(f"{name}.layernorm_after", x)
        x = x + linear(f"{name}.output.dense", F.gelu(linear(f"{name}.intermediate.dense", kept)))
    return linear("classifier", norm("vit.layernorm", x)[:, 0])


def test_a_number_in_a_name_costs_nothing() -> None:
    tensors = dict(cifar_vgg(nn.Linear(16, 5)).state_dict())
    moved = {name.replace("features.0.", "features.99999999999."): value for name, value in tensors.items()}
    with pytest.raises(Problem, match="no net that bdscan knows"):
        found(moved)


def test_what_only_transformers_can_build_is_refused() -> None:
    for config in (
        {"architectures": ["BeitForImageClassification"]},
        {"architectures": ["ResNetForImageClassification"], "auto_map": {"AutoModel": "own.Net"}},
        {"architectures": ["ResNetForImageClassification"], "hidden_act": "gelu"},
    ):
        with pytest.raises(Problem, match=r"config\.json"):
            find("auto", wrn(), config, {}, "folder")


def test_pooling_by_a_window_tells_the_size() -> None:
    tensors = preact("", (4, 8, 8, 8))
    tensors["linear.weight"] = torch.rand(7, 32)
    first = find("auto", tensors, None, {}, "net.pt")[0]
    assert first.candidate.sizes == (64,)
    assert first.candidate.fixed_size
    with torch.no_grad():
        assert first.net.eval()(pixels(64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["wrn-16-1", "resnet-18", "preact-resnet-18", "resnet-20", "vgg-11"])
def test_a_net_is_found_by_the_name_it_was_trained_under(name: str) -> None:
    state = fresh(name, 7, (3, 32, 32)).state_dict()
    found = find(name, state, None, {}, "model.pt")
    assert [each.candidate.name for each in found] == [find("auto", state, None, {}, "model.pt")[0].candidate.name]
    for other in {"wrn-16-2", "resnet-34", "preact-resnet-18", "resnet-18"} - {name}:
        with pytest.raises(Problem, match="are not those of"):
            find(other, state, None, {}, "model.pt")
