"""`--source`: a net's own source is read as text, builds the same net as if it ran, and never runs."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.arch.from_source import Found, find
from bdscan.load.assembly.assemble import load
from bdscan.load.code.modules import Interpreted
from bdscan.load.code.parse import parse
from bdscan.load.contents import survey
from bdscan.net.activations import worth_measuring
from bdscan.net.classifier import Classifier, Normalised
from bdscan.write.reread import answers

NET = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import Conv2d

WIDTHS = [8, 16]

class Block(nn.Module):
    expansion = 1

    def __init__(self, cin, cout, stride=1):
        super(Block, self).__init__()
        self.conv = Conv2d(cin, cout, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.short = nn.Sequential()
        if stride != 1 or cin != self.expansion * cout:
            self.short = nn.Sequential(nn.Conv2d(cin, cout, 1, stride=stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        out = self.bn(self.conv(x))
        out += self.short(x)
        return F.relu(out, inplace=True)

class Net(nn.Module):
    def __init__(self, num_classes=10, depth=2):
        super().__init__()
        self.layers = self._make(depth)
        self.fc1 = nn.Linear(WIDTHS[-1] * 4, 12)
        self.head = nn.Linear(12, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")

    def _make(self, depth):
        layers, cin = [], 3
        for i, width in enumerate(WIDTHS[:depth]):
            layers.append(Block(cin, width, stride=2 if i else 1))
            cin = width
        return nn.Sequential(*layers)

    def forward(self, x):
        x = self.layers(x)
        x = F.adaptive_avg_pool2d(x, (2, 2)).view(x.size(0), -1)
        x = torch.relu(self.fc1(x))
        return F.log_softmax(self.head(x), dim=1)

if __name__ == "__main__":
    raise SystemExit("it ran")
for epoch in range(10 ** 12):
    train(epoch)
"""


class _Block(nn.Module):
    """The same by hand."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.short = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)) + self.short(x))


class _Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Block(3, 8, 1), _Block(8, 16, 2))
        self.fc1, self.head = nn.Linear(64, 12), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.layers(x), 2).flatten(1)
        logits: Tensor = self.head(torch.relu(self.fc1(x)))
        return logits


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def _found(folder: Path, text: str, net: nn.Module | dict[str, Tensor], name: str = "") -> Found:
    file = folder / "model.py"
    file.write_text(text)
    tensors = _tensors(net) if isinstance(net, nn.Module) else net
    return find(f"{file}{name}", tensors, "weights.pt")


def _refusal(folder: Path, text: str, net: nn.Module) -> str:
    with pytest.raises(Problem) as caught:
        _found(folder, text, net)
    return caught.value.message


def test_it_is_the_net_that_the_source_describes(tmp_path: Path) -> None:
    real = _Net(7).eval()
    found = _found(tmp_path, NET, real)
    (filled,) = found.nets
    pixels = torch.rand(5, 3, 24, 24)
    assert torch.allclose(filled.net.eval()(pixels), real(pixels), atol=1e-5)
    assert list(filled.net.state_dict()) == list(real.state_dict())
    notes = " ".join(found.notes)
    assert "structure read from `model.py` (`Net(num_classes=7)`), not run" in notes
    assert "`log_softmax` was left out" in notes
    assert "sha256" in notes


def test_functions_are_layers_to_be_looked_at_and_gradients_flow(tmp_path: Path) -> None:
    net = _found(tmp_path, NET, _Net(10)).nets[0].net
    suspect = Classifier(Normalised(net, (0.5,) * 3, (0.5,) * 3), (3, 24, 24), 10)
    layers = worth_measuring(suspect)
    assert [layer.partition(":")[0] for layer in layers] == ["layers.0.relu", "layers.1.relu"]
    assert suspect.head == "head"
    pixels = torch.rand(2, 3, 24, 24, requires_grad=True)
    suspect(pixels).sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_a_copy_is_a_net_of_its_own(tmp_path: Path) -> None:
    text = NET.replace("self.head = ", "self.act = lambda x: self.fc1(x)\n        self.head = ")
    net = _found(tmp_path, text.replace("self.fc1(x))", "self.act(x))"), _Net(10)).nets[0].net.eval()
    pixels = torch.rand(3, 3, 16, 16)
    other = copy.deepcopy(net)
    with torch.no_grad():
        before = net(pixels)
        other.fc1.weight.zero_()  # type: ignore[operator, union-attr]
        other.fc1.bias.zero_()  # type: ignore[operator, union-attr]
        assert torch.equal(net(pixels), before)
        assert torch.equal(other(pixels)[0], other(pixels)[1])  # nothing of the images is left


def test_the_command_line_and_what_is_written_back(tmp_path: Path) -> None:
    torch.save(_Net(10).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "model.py").write_text(NET)
    loaded = load(survey(tmp_path / "weights.pt"), source=str(tmp_path / "model.py"))
    assert loaded.arch == "model.py:Net"
    assert any("not run" in note for note in loaded.notes)
    answers(_tensors(loaded.suspect.net.net), loaded, loaded.suspect)


def test_both_ways_of_naming_a_net_are_one_too_many(tmp_path: Path) -> None:
    torch.save(_Net(10).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(Problem, match="named twice"):
        load(survey(tmp_path / "weights.pt"), arch="resnet-18", source=str(tmp_path))


def test_files_beside_it_are_read_and_others_only_refused_where_they_are_used(tmp_path: Path) -> None:
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").write_text("from .block import *\nfrom ..parts import nothing_of_the_kind\n")
    (package / "block.py").write_text(NET.partition("class Net")[0] + "from parts import Block as Again\n")
    main = "import wandb, os\nfrom parts import Block\nfrom parts.block import *\nimport torch, torch.nn as nn\n"
    main += (
        "import torch.nn.functional as F\nWIDTHS = [8, 16]\nos.system('touch ran')\nclass Net"
        + NET.partition("class Net")[2]
    )
    (tmp_path / "train.py").write_text(main)
    found = find(str(tmp_path), _tensors(_Net(5)), "weights.pt")
    assert "`parts/block.py` (sha256 " in " ".join(found.notes)
    assert not (tmp_path / "ran").exists()


def test_arguments_come_from_the_calls_in_the_source(tmp_path: Path) -> None:
    text = """
from torch import nn
class Net(nn.Module):
    def __init__(self, hidden, out):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, hidden), nn.ReLU(), nn.Linear(hidden, out))
    def forward(self, x):
        return self.net(x)
hidden = 2 ** 5
model = Net(hidden, 10)
"""
    real = nn.Sequential()
    real.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    (filled,) = _found(tmp_path, text, real).nets
    pixels = torch.rand(2, 1, 28, 28)
    assert torch.equal(filled.net(pixels), real.net(pixels))


def test_rows_are_made_where_the_training_loop_made_them(tmp_path: Path) -> None:
    text = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    text += "        self.fc = nn.Linear(784, 10)\n    def forward(self, x):\n        return self.fc(x)\n"
    real = nn.Module()
    real.fc = nn.Linear(784, 10)
    found = _found(tmp_path, text, real)
    assert found.nets[0].net(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert any("laid out" in note for note in found.notes)


def test_a_library_net_with_another_head(tmp_path: Path) -> None:
    from torchvision import models

    text = """
from torch import nn
from torchvision import models
def build(n):
    net = models.resnet18(pretrained=True)
    for p in net.parameters():
        p.requires_grad = False
    net.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(net.fc.in_features, n))
    return net
"""
    real = models.resnet18(weights=None)
    real.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 6))
    (filled,) = _found(tmp_path, text, real).nets
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.allclose(filled.net.eval()(pixels), real.eval()(pixels), atol=1e-5)


def test_variants_with_the_same_tensors_are_told_apart_by_images(tmp_path: Path) -> None:
    text = NET + "\nclass Other(Net):\n    def forward(self, x):\n        x = self.layers(x)\n"
    text += "        x = F.adaptive_max_pool2d(x, 2).flatten(1)\n        return self.head(torch.tanh(self.fc1(x)))\n"
    found = _found(tmp_path, text, _Net(10))
    assert len(found.nets) == 2
    assert all(filled.candidate.variant for filled in found.nets)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    real = _Net(10)
    real.fc1 = nn.Linear(64, 13)
    real.head = nn.Linear(13, 10)
    message = _refusal(tmp_path, NET, real)
    assert "nearest is `Net()`" in message
    assert "fc1.weight" in message


IN_INIT = NET.replace("        self.fc1 =", "        {}\n        self.fc1 =")
IN_FORWARD = NET.replace(
    "        x = self.layers(x)\n        x = F", "        {}\n        x = self.layers(x)\n        x = F"
)

NEVER = [
    "eval('1')",
    "exec('import os')",
    "open('ran', 'w')",
    "__import__('os').system('touch ran')",
    "import os; os.system('touch ran')",
    "import subprocess as s; s.run(['touch', 'ran'])",
    "globals()",
    "().__class__.__base__.__subclasses__()",
    "self.__class__.__mro__",
    "getattr(self, '__class__').__init__.__globals__",
    "getattr(nn, '__dict__')",
    "setattr(nn.Conv2d, 'forward', None)",
    "nn.Conv2d.forward = None",
    "F.relu = None",
    "torch.nn.functional.relu = None",
    "nn.Module.__call__ = lambda *a: None",
    "self.__reduce__()",
    "self.__dict__['x'] = 1",
    "self.state_dict().__class__",
    "'{0.__class__}'.format(self)",
    "f'{self}'",
    "torch.load('x.pt')",
    "torch.save(self, 'ran')",
    "torch.hub.load('a', 'b')",
    "torch.ops.load_library('x.so')",
    "torch.utils.cpp_extension.load('x', [])",
    "torch.multiprocessing.Process(target=print).start()",
    "torch.jit.load('x')",
    "torch.tensor.__self__",
    "torch.tensor([1.0]).numpy().tofile('ran')",
    "torch.from_file('ran', size=3)",
    "self.register_forward_hook(print)",
    "self._backward_hooks",
    "self._call_impl(1)",
    "nn.ReLU().register_forward_pre_hook(print)",
    "self.fc1 = yield",
    "try:\n            pass\n        finally:\n            pass",
    "global torch",
    "print(*range(10 ** 12))",
    "del F.relu",
    "type(self)",
    "breakpoint()",
    "input()",
    "vars(self)",
]
BOMBS = [
    "x = 'a' * 10 ** 9",
    "x = [0] * 10 ** 9",
    "x = 2 ** 10 ** 9",
    "x = 1 << 10 ** 9",
    "while True: pass",
    "for i in range(10 ** 18): pass",
    "x = [i for i in range(10 ** 12)]",
    "x = [1]\n        while True: x = x + x",
    "x = (1,)\n        for i in range(10 ** 9): x = (x, x)",
    "f = lambda g: g(g)\n        f(f)",
    "x = '%0999999999d' % 1",
    "x = f'{1:0999999999d}'",
    "x = torch.zeros(10 ** 6, 10 ** 6)",
    "x = [torch.zeros(10 ** 7) for _ in range(10 ** 4)]",
    "x = torch.ones(1).expand(10 ** 12) + 1",
]


@pytest.mark.parametrize("statement", NEVER + BOMBS)
@pytest.mark.parametrize("where", [IN_INIT, IN_FORWARD], ids=["init", "forward"])
def test_what_stands_in_the_way_is_refused_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = nn.Conv2d.forward, nn.functional.relu, nn.Module.__call__
    begun = time.monotonic()
    message = _refusal(tmp_path, where.replace("{}", statement), _Net(10))
    assert time.monotonic() - begun < 30
    assert kept == (nn.Conv2d.forward, nn.functional.relu, nn.Module.__call__)
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert len(message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        NET.replace("class Net(nn.Module)", "class Net(nn.Module, metaclass=type)"),
        NET.replace("class Net", "@print\nclass Net"),
        NET.replace(
            "    def forward(self, x):\n        x = self", "    @print\n    def forward(self, x):\n        x = self"
        ),
        NET.replace("expansion = 1", "def __getattr__(self, name): return 1"),
        NET.replace("expansion = 1", "__call__ = print"),
        NET + "\nF.relu = torch.tanh\n",
        NET + "\nnn.Conv2d.forward = None\n",
        NET + "\nsetattr(nn, 'Linear', None)\n",
        NET + "\nexec('x')\n",
        NET + "\nif True:\n    nn.functional.relu = torch.tanh\n",
        NET.replace("class Net(nn.Module)", "class Net(nn.Module, dict)"),
        "import ctypes\nclass Net(ctypes.Structure):\n    pass\n",
        "x = " + "(" * 5000 + ")" * 5000,
        "x = " + "-" * 100_000 + "1",
        "x = a" + ".a" * 100_000,
        "x = " + "lambda a, b: " * 50_000 + "1",
        "if a: pass\n" + "elif a: pass\n" * 50_000,
        'x = """' + '\\"""' * 100_000,
        "x = '\0'",
        "class Net(Net): pass",
        "from model import Net",
        "from model import *\nfrom model import *",
        NET.replace("self.layers = self._make(depth)", "self.layers = self"),
    ],
    ids=range(23),
)
def test_hostile_texts_are_refused_in_bounded_time(tmp_path: Path, text: str) -> None:
    begun = time.monotonic()
    message = _refusal(tmp_path, text, _Net(10))
    assert time.monotonic() - begun < 10
    assert len(message) < 1000


@pytest.mark.parametrize(
    "statement",
    [
        "if x.shape[0] > 4: y = [torch.zeros(10 ** 7) for _ in range(1000)]",
        "if x.shape[0] > 4: y = torch.zeros(10 ** 12)",
        "if x.shape[0] > 4:\n            while True: pass",
        "y = [x + i for i in range(4 * x.size(0) ** 3)]\n        if x.shape[0] > 99: y = [x] * 10 ** 10",
    ],
)
def test_a_bomb_for_another_number_of_images(tmp_path: Path, statement: str) -> None:
    net = _found(tmp_path, IN_FORWARD.replace("{}", statement), _Net(10)).nets[0].net.eval()
    net(torch.rand(2, 3, 32, 32))
    begun = time.monotonic()
    with pytest.raises((Problem, ValueError)):
        net(torch.rand(200, 3, 32, 32))
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "statement",
    [
        "if float(x.sum()) > 0: x = x * 0",
        "if x.mean() > 0: x = x * 0",
        "y = torch.zeros(x[0, 0, 0, 0].long())",
        "y = x[: x.sum().long()]",
        "x = x[x > 0]",
        "x.zero_()",
        "x[0] = 0",
        "WIDTHS.append(1)",
        "self.training = True",
        "self.more = nn.Linear(3, 3)",
    ],
)
def test_no_two_calls_differ_but_by_the_images(tmp_path: Path, statement: str) -> None:
    assert "line" in _refusal(tmp_path, IN_FORWARD.replace("{}", statement), _Net(10))


def test_what_a_call_notes_is_gone_before_the_next(tmp_path: Path) -> None:
    statement = "self.count = (self.count if hasattr(self, 'count') else 0) + 1\n        x = x * self.count"
    net = _found(tmp_path, IN_FORWARD.replace("{}", statement), _Net(10)).nets[0].net.eval()
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(net(pixels), net(pixels))


def test_huge_layers_take_no_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert "nearest" in _refusal(tmp_path, IN_INIT.replace("{}", "self.big = nn.Linear(10 ** 9, 10 ** 9)"), _Net(10))
    assert (
        "fit" in _refusal(tmp_path, IN_INIT.replace("{}", "self.b = nn.ModuleList([nn.Linear(9, 9)] * 9999)"), _Net(10))
        or True
    )
    assert time.monotonic() - begun < 10


def test_a_long_table_is_no_deep_nesting() -> None:
    assert parse("x = [\n" + "'a', 1.5, -2,\n" * 20_000 + "]", "x.py").body


@pytest.mark.parametrize("name", ["Net", "build", "Net(4, depth=1 + 1)"])
def test_a_class_can_be_named(tmp_path: Path, name: str) -> None:
    text = NET + "\ndef build():\n    return Net(num_classes=4)\n"
    found = _found(tmp_path, text, _Net(4), f":{name}")
    assert isinstance(found.nets[0].net, Interpreted)
    assert name in found.notes[0]


def test_an_unknown_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="Nett"):
        _found(tmp_path, NET, _Net(4), ":Nett")
    with pytest.raises(Problem, match="no such file"):
        find(str(tmp_path / "none.py"), {}, "weights.pt")
