"""Exported programs (.pt2): the graph in the file is the net that is judged."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_nets import NETS, SHAPE, Residual, Trigger, check_rebuilt, lively
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.load.assembly.assemble import load
from bdscan.load.contents import survey
from bdscan.load.exported import rebuild
from bdscan.write.cleaned import ready, write

pytestmark = pytest.mark.filterwarnings("ignore")  # exporting warns about itself

Change = Callable[[Any], object]


def saved(path: Path, net: nn.Module, images: int = 0) -> Path:
    """Exported for so many images; 0: for any number."""
    free = ({0: torch.export.Dim("n", min=1, max=512)},) if not images else None
    exported = torch.export.export(lively(net), (torch.rand(images or 2, *SHAPE),), dynamic_shapes=free)
    torch.export.save(exported, path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "net.pt2"


@pytest.mark.parametrize("images", [0, 1], ids=["any number", "for one"])
@pytest.mark.parametrize("name", NETS)
def test_the_net_is_the_program(name: str, images: int, place: Path) -> None:
    net = NETS[name]()
    rebuilt = rebuild(saved(place, net, images))
    assert rebuilt.shape == SHAPE
    check_rebuilt(rebuilt.net, net)


def test_the_layout_before_torch_2_8(place: Path) -> None:
    """One archive with a JSON and checkpoints beside it."""
    net = Residual()
    saved(place, net)
    with zipfile.ZipFile(place) as archive:
        text = next(archive.read(name) for name in archive.namelist() if "/models/" in name)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("serialized_exported_program.json", text)
        for name, value in (("state_dict", net.state_dict()), ("constants", {}), ("example_inputs", ())):
            with archive.open(f"serialized_{name}.pt", "w") as file:
                torch.save(value, file)
        archive.writestr("version", "7.3")
    assert survey(place).format == "pt2"
    check_rebuilt(rebuild(place).net, net)


def test_a_trigger_in_the_graph_is_in_the_net_that_is_judged(place: Path) -> None:
    program = Trigger()
    contents = survey(saved(place, program))
    assert not contents.unread
    suspect = load(contents, normalize="none", device="cpu").suspect
    pixels = torch.rand(4, *SHAPE) * 0.5
    torch.testing.assert_close(suspect(pixels), program(pixels), rtol=1e-4, atol=1e-4)
    pixels[:, :, :3, :3] = 1
    assert suspect(pixels).argmax(1).tolist() == [5] * 4


def test_a_net_that_mixes_its_images_is_refused(place: Path) -> None:
    class Mixing(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = x - x.mean(0, keepdim=True)
            return self.fc(torch.flatten(self.pool(self.layers(x)), 1))  # type: ignore[no-any-return]

    with pytest.raises(Problem, match="mixes the images"):
        rebuild(saved(place, Mixing()))


def test_a_net_that_changes_itself_is_refused(place: Path) -> None:
    class Remembering(Residual):
        asked: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("asked", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.asked.add_(1)
            return self.fc(torch.flatten(self.pool(self.layers(x)), 1)) + self.asked  # type: ignore[no-any-return]

    with pytest.raises(Problem, match=r"changes (a tensor|tensors) of its own"):
        rebuild(saved(place, Remembering()))


# -- hostile graphs --------------------------------------------------------------------------------------


def changed(place: Path, change: Change, *, text: bytes | None = None) -> Path:
    """A sound program whose JSON is another."""
    saved(place, Residual())
    with zipfile.ZipFile(place) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in members if "/models/" in name)
    program = json.loads(members[name])
    change(program["graph_module"]["graph"])
    members[name] = text or json.dumps(program).encode()
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return place


def node(graph: Any, op: str) -> Any:
    return next(each for each in graph["nodes"] if each["target"].split(".")[3] == op)


def cycle(graph: Any) -> None:
    graph["nodes"][0]["inputs"][0]["arg"] = graph["nodes"][-1]["outputs"][0]


def missing(graph: Any) -> None:
    graph["nodes"][3]["inputs"][0]["arg"]["as_tensor"]["name"] = "nowhere"


def unknown(graph: Any) -> None:
    graph["nodes"][3]["target"] = "torch.ops.evil.run.default"
    graph["nodes"][4]["target"] = "os.system"


def nested(graph: Any) -> None:
    node(graph, "conv2d")["target"] = "torch.ops.higher_order.cond"


def large_image(graph: Any) -> None:
    for value in graph["tensor_values"].values():
        if len(value["sizes"]) == 4 and "as_expr" in value["sizes"][0]:
            value["sizes"][2:] = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]


def large_tensor(graph: Any) -> None:
    new = node(graph, "relu_") if any("relu_" in each["target"] for each in graph["nodes"]) else node(graph, "relu")
    new["target"] = "torch.ops.aten.repeat.default"
    new["inputs"].append({"name": "repeats", "arg": {"as_ints": [1, 1, 1 << 20, 1 << 20]}, "kind": 1})


def many(graph: Any) -> None:
    first = node(graph, "batch_norm")
    relu = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": first["outputs"][0], "kind": 1}],
    }
    graph["nodes"][3:3] = [{**relu, "outputs": [{"as_tensor": {"name": f"r{i}"}}]} for i in range(20_000)]


def no_nodes(graph: Any) -> None:
    graph["nodes"] = []


def odd(graph: Any) -> None:
    graph["nodes"][3]["inputs"] = {"a": [3]}


HOSTILE: dict[str, tuple[Change, str]] = {
    "cycle": (cycle, "malformed"),
    "missing value": (missing, "malformed"),
    "unknown operators": (unknown, r"'os.system'.*'torch.ops.evil.run.default'"),
    "graph in a graph": (nested, "higher_order.cond"),
    "large image": (large_image, "out of proportion"),
    "large tensor": (large_tensor, "out of proportion"),
    "many nodes": (many, "20,0.. nodes"),
    "no nodes": (no_nodes, "malformed"),
    "odd types": (odd, "malformed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphs_are_refused_in_time(name: str, place: Path) -> None:
    change, said = HOSTILE[name]
    changed(place, change)
    begun = time.monotonic()
    with pytest.raises(Problem, match=said):
        rebuild(place)
    assert time.monotonic() - begun < 30  # a few seconds; the runner may be slow


@pytest.mark.parametrize("text", [b"[" * 1_000_000, b"{}", b"[]", b"{", b'{"graph_module": 3}'])
def test_text_that_is_no_graph_is_refused(text: bytes, place: Path) -> None:
    changed(place, lambda graph: None, text=text)
    with pytest.raises(Problem, match="cannot be rebuilt"):
        rebuild(place)


# -- back again --------------------------------------------------------------------------------------------


def test_the_cleaned_program_is_the_same_archive(place: Path, tmp_path: Path) -> None:
    contents = survey(saved(place, Residual()))
    loaded, output = load(contents, normalize="none", device="cpu"), tmp_path / "out.pt2"
    ready(contents, loaded, output)
    cleaned = loaded.suspect.clone()
    with torch.no_grad():
        for tensor in cleaned.net.net.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.25)
    write(contents, loaded, cleaned, output)
    pixels = torch.rand(3, *SHAPE)
    program = torch.export.load(output).module()
    torch.testing.assert_close(program(pixels), cleaned(pixels), rtol=1e-4, atol=1e-4)
    with zipfile.ZipFile(place) as old, zipfile.ZipFile(output) as new:
        assert new.testzip() is None
        assert old.namelist() == new.namelist()
        changed = [name for name in old.namelist() if old.read(name) != new.read(name)]
    assert changed
    assert all("/data/weights/weight_" in name for name in changed)


def test_a_program_is_not_written_under_the_name_of_a_checkpoint(place: Path, tmp_path: Path) -> None:
    contents = survey(saved(place, Residual()))
    loaded = load(contents, normalize="none", device="cpu")
    with pytest.raises(Problem, match=r"which `\.pt` contradicts"):
        ready(contents, loaded, tmp_path / "out.pt")


def test_a_net_that_takes_rows_is_given_them(place: Path) -> None:
    net = nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 6))
    free = ({0: torch.export.Dim("n", min=1, max=512)},)
    torch.export.save(torch.export.export(net, (torch.rand(2, 784),), dynamic_shapes=free), place)
    rebuilt = rebuild(place)
    assert (rebuilt.shape, rebuilt.variants) == ((1, 28, 28), ())
    pixels = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(rebuilt.net(pixels), net(pixels.flatten(1)))
