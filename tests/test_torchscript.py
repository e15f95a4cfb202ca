"""TorchScript programs: the net that is judged is their own code, and no code of theirs is run to get it."""

from __future__ import annotations

import re
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_nets import NETS, SHAPE, Functional, Residual, Trigger, check_rebuilt, lively
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.assembly.assemble import load
from bdscan.load.contents import survey
from bdscan.load.torchscript import rebuild
from bdscan.write.cleaned import ready, write

pytestmark = pytest.mark.filterwarnings("ignore")  # torch deprecates TorchScript, but the files are there

SAVERS: dict[str, Callable[[nn.Module], Any]] = {
    "traced": lambda net: torch.jit.trace(net, torch.rand(2, *SHAPE)),
    "traced for one": lambda net: torch.jit.trace(net, torch.rand(1, *SHAPE)),
    "scripted": torch.jit.script,
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net)),
}


def saved(path: Path, net: nn.Module, how: str = "scripted") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(SAVERS[how](lively(net)), str(path))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "net.pt"


@pytest.mark.parametrize("how", SAVERS)
@pytest.mark.parametrize("name", NETS)
def test_the_net_is_the_program(name: str, how: str, place: Path) -> None:
    net = NETS[name]()
    rebuilt = rebuild(saved(place, net, how))
    assert isinstance(rebuilt.net, nn.Module)
    if how == "frozen":  # which folds norms into the layers before them
        pixels = torch.rand(3, *SHAPE)
        torch.testing.assert_close(rebuilt.net(pixels).log_softmax(1), net(pixels).log_softmax(1), rtol=1e-4, atol=1e-4)
    else:
        check_rebuilt(rebuilt.net, net)
    assert any("log_softmax" in note for note in rebuilt.notes) == (name == "Functional")


def test_a_trigger_in_the_code_is_in_the_net_that_is_judged(place: Path) -> None:
    saved(place, Trigger(), "traced")
    program, loaded = torch.jit.load(str(place)), load(survey(place), normalize="none", device="cpu")
    assert not survey(place).unread
    pixels = torch.rand(4, *SHAPE) * 0.5
    torch.testing.assert_close(loaded.suspect(pixels), program(pixels), rtol=1e-4, atol=1e-4)
    pixels[:, :, :3, :3] = 1
    assert loaded.suspect(pixels).argmax(1).tolist() == program(pixels).argmax(1).tolist() == [5] * 4


def test_weights_alone_are_no_judgement_of_the_code(place: Path) -> None:
    """With `--arch` the weights are read by their names, and that is told."""
    net = saved(place, Residual())
    (place.parent / "owner.py").write_text("import graph_nets\n\ndef net():\n    return graph_nets.Residual()\n")
    loaded = load(survey(net), arch=f"{place.parent / 'owner.py'}:net", normalize="none", device="cpu")
    assert any("its own code" in doubt for doubt in loaded.doubts)
    assert not load(survey(net), normalize="none", device="cpu").doubts[1:]


def test_a_head_and_maps_are_found(place: Path) -> None:
    suspect = load(survey(saved(place, Residual())), normalize="none", device="cpu").suspect
    assert isinstance(suspect.module(suspect.head), nn.Linear)
    assert len(suspect.maps) > 8


def test_a_tensor_for_two_layers_stays_one(place: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(torch.relu(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]

    net = rebuild(saved(place, Tied(), "traced")).net
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 2
    assert convolutions[0].weight is convolutions[1].weight


# -- programs whose answer no fixed graph gives --------------------------------------------------


class Branching(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.fc(torch.flatten(self.pool(self.layers(x)), 1))
        if bool(x[0, 0, 0, 0] > 0.98):
            out = out + 1
        return out  # type: ignore[no-any-return]


class Counting(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.fc(torch.flatten(self.pool(self.layers(x)), 1))
        if x.size(0) == 7:
            out = out + 1
        return out  # type: ignore[no-any-return]


class Remembering(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.asked = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.asked.add_(1)
        late = (self.asked > 100).float()
        return self.fc(torch.flatten(self.pool(self.layers(x)), 1)) + late  # type: ignore[no-any-return]


class Reading(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layers(x)), 1)) + x.max().item()  # type: ignore[no-any-return]


class Moving(Residual):
    def forward(self, x: Tensor) -> Tensor:
        out = self.fc(torch.flatten(self.pool(self.layers(x)), 1))
        return out + 1 if x.is_cuda else out  # type: ignore[no-any-return]


class Mixing(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(0, keepdim=True)
        return self.fc(torch.flatten(self.pool(self.layers(x)), 1))  # type: ignore[no-any-return]


class Dicing(Residual):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.pool(self.layers(x)), 1)
        return self.fc(x) * torch.bernoulli(torch.ones(1))  # type: ignore[no-any-return]


REFUSED: dict[type[nn.Module], str] = {
    Branching: "by what the image shows|reads numbers out of the image",
    Counting: "by the number of images",
    Remembering: "changes a tensor of its own",
    Reading: "reads numbers out of the image",
    Moving: "on another device",
    Mixing: "mixes the images",
    Dicing: "bernoulli",
}


@pytest.mark.parametrize("net", REFUSED)
def test_what_no_graph_can_follow_is_refused(net: type[nn.Module], place: Path) -> None:
    with pytest.raises(Problem, match=REFUSED[net]):
        rebuild(saved(place, net()))


def test_code_that_runs_while_it_is_loaded_is_refused(place: Path) -> None:
    text = "  def __setstate__(self, state: Tensor) -> NoneType:\n    return None\n"
    with pytest.raises(Problem, match="while it is loaded"):
        rebuild(rewritten(place, "    return x\n", text))


def test_every_unknown_operator_is_named(place: Path) -> None:
    with pytest.raises(Problem, match=r"operators .*'bernoulli_'.*'save'"):
        rebuild(rewritten(place, "    y = torch.bernoulli_(x, 0.5)\n    z = torch.save(y, 'f')\n    return y\n"))


def test_files_for_other_runtimes_are_refused(place: Path) -> None:
    net = torch.ao.quantization.quantize_dynamic(lively(Functional()), {nn.Linear})
    torch.jit.save(torch.jit.script(net), str(place))
    with pytest.raises(Problem, match="cannot be rebuilt"):
        rebuild(place)


# -- hostile text ------------------------------------------------------------------------------------


def rewritten(place: Path, body: str, more: str = "") -> Path:
    """A sound program whose `forward` is another text."""
    saved(place, Functional())
    with zipfile.ZipFile(place) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    ((name, text),) = [(name, text.decode()) for name, text in members.items() if b"class Functional(" in text]
    head, _, _ = text.partition("  def forward(")
    members[name] = f"{head}  def forward(self: Any,\n    x: Tensor) -> Tensor:\n{body}{more}".encode()
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return place


HOSTILE = {
    "endless loop": "    while True:\n      pass\n    return x\n",
    "endless counting": "    i = 0\n    while torch.ge(i, 0):\n      i = torch.add(i, 1)\n    return x\n",
    "long range": "    for i in range(9000000000000):\n      pass\n    return x\n",
    "recursion": "    return (self).forward(x, )\n",
    "long text": '    y = torch.mul("a", 1000000000)\n    return x\n',
    "doubling text": '    y = "ab"\n    for i in range(60):\n      y = torch.add(y, y)\n    return x\n',
    "doubling list": "    y = [1, 2]\n    for i in range(60):\n      y = torch.add(y, y)\n    return x\n",
    "growing list": "    y = [1]\n    for i in range(9000000):\n      _ = torch.append(y, 1)\n    return x\n",
    "huge constant": "    y = torch.zeros([1000000, 1000000])\n    return torch.add(x, y)\n",
    "huge by the image": "    y = torch.repeat(x, [1, 1000000, 1000, 1])\n    return y\n",
    "huge by its size": "    y = torch.zeros([torch.mul(torch.size(x, 0), 1000000000), 9])\n    return y\n",
    "huge number": "    y = 2\n    for i in range(90):\n      y = torch.mul(y, y)\n    return x\n",
    "large power": "    y = torch.pow(10, 1000000000)\n    return x\n",
    "growing tensor": "    for i in range(60):\n      x = torch.cat([x, x], 1)\n    return x\n",
    "many tensors": "    y = [x]\n    for i in range(90000):\n      _ = torch.append(y, torch.relu(x))\n    return x\n",
    "deep nesting": f"    return {'(' * 100_000}x{')' * 100_000}\n",
    "deep calls": f"    return {'torch.relu(' * 100}x{')' * 100}\n",
    "deep blocks": "".join(f"{' ' * (i + 4)}if True:\n" for i in range(200)) + " " * 204 + "return x\n",
    "missing name": "    return torch.relu(y)\n",
    "missing constant": "    return torch.add(x, CONSTANTS.c99)\n",
    "missing attribute": "    return torch.add(x, self.nothing)\n",
    "missing class": "    return (__torch__.nowhere.Net).forward(x, )\n",
    "Python": "    return __import__('os').system('true')\n",
    "hidden names": "    return x.__class__.__base__\n",
    "other library": "    return ops.aten_evil.run(x)\n",
    "no text": "    return (((\n",
    "no tensor": "    return 3\n",
    "the image itself": "    return x\n",
    "assertion": "    ops.prim.RaiseException('no')\n    return x\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_time(name: str, place: Path) -> None:
    rewritten(place, HOSTILE[name])
    begun = time.monotonic()
    with pytest.raises(Problem) as told:
        rebuild(place)
    assert time.monotonic() - begun < 30  # a few seconds; the runner may be slow
    assert len(told.value.message) < 1000
    assert "\n" not in told.value.message


def test_damaged_programs_are_refused(place: Path) -> None:
    whole = saved(place, Functional()).read_bytes()
    for at in range(0, len(whole), 400):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            rebuild(place)
        except Problem as problem:
            assert str(place) in problem.message


# -- back again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["traced", "scripted"])
def test_the_cleaned_program_is_the_same_archive(how: str, place: Path, tmp_path: Path) -> None:
    contents = survey(saved(place, Residual(), how))
    loaded, output = load(contents, normalize="none", device="cpu"), tmp_path / "out.pt"
    ready(contents, loaded, output)
    cleaned = loaded.suspect.clone()
    with torch.no_grad():
        for name, tensor in cleaned.net.net.state_dict().items():
            if tensor.is_floating_point():
                tensor.mul_(1.25).add_(0.01 if "running" in name else 0)
    write(contents, loaded, cleaned, output)
    pixels = torch.rand(3, *SHAPE)
    torch.testing.assert_close(torch.jit.load(str(output))(pixels), cleaned(pixels), rtol=1e-4, atol=1e-4)
    with zipfile.ZipFile(place) as old, zipfile.ZipFile(output) as new:
        assert new.testzip() is None
        assert old.namelist() == new.namelist()
        changed = [name for name in old.namelist() if old.read(name) != new.read(name)]
    assert changed
    assert all(re.search(r"/data/\d+$", name) for name in changed)


def test_a_weight_that_is_worked_out_cannot_be_written_back(place: Path, tmp_path: Path) -> None:
    class Scaled(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.flatten(self.pool(self.layers(x)), 1)
            return nn.functional.linear(x, self.fc.weight * 2, self.fc.bias)

    contents = survey(saved(place, Scaled(), "traced"))
    loaded = load(contents, normalize="none", device="cpu")
    with pytest.raises(Problem, match="cannot be written back"):
        ready(contents, loaded, tmp_path / "out.pt")


# -- images of one size, and rows ------------------------------------------------------------------------


class Flattened(nn.Sequential):
    """Takes images of one side only, which stands nowhere."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 7 * 7, 6))


class Row(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 6))


def test_the_only_size_that_a_scripted_net_takes_is_found(place: Path) -> None:
    net = Flattened().eval()
    rebuilt = rebuild(saved(place, net))
    assert rebuilt.sizes[0] == 16
    pixels = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(rebuilt.net(pixels), net(pixels))


@pytest.mark.parametrize("how", ["traced", "scripted"])
def test_a_net_that_takes_rows_is_given_them(how: str, place: Path, tmp_path: Path) -> None:
    net = Row()
    torch.jit.save(torch.jit.trace(net, torch.rand(4, 768)) if how == "traced" else torch.jit.script(net), str(place))
    rebuilt = rebuild(place)
    assert rebuilt.shape == (3, 16, 16)
    pixels = torch.rand(3, 3, 16, 16)
    in_planes, in_pixels = (net(pixels) for _, net in rebuilt.variants)
    torch.testing.assert_close(in_planes, net(pixels.flatten(1)))
    torch.testing.assert_close(in_pixels, net(pixels.permute(0, 2, 3, 1).flatten(1)))
    contents = survey(place)
    loaded = load(contents, normalize="none", device="cpu")
    loaded.suspect.net.net.entry = rebuilt.variants[1][1].entry
    ready(contents, loaded, tmp_path / "out.pt")
    cleaned = loaded.suspect.clone()
    with torch.no_grad():
        cleaned.net.net.get_parameter(next(name for name, _ in cleaned.net.net.named_parameters())).mul_(0.5)
    write(contents, loaded, cleaned, tmp_path / "out.pt")
    written = torch.jit.load(str(tmp_path / "out.pt"))
    torch.testing.assert_close(written(pixels.permute(0, 2, 3, 1).flatten(1)), cleaned(pixels))


def test_rows_that_are_no_square_are_refused(place: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(700, 6), torch.rand(4, 700)), str(place))
    with pytest.raises(Problem, match="no square image"):
        rebuild(place)
