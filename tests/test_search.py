"""Structures inferred from labelled images: the right one or none, and the file's own names kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_data import CLASSES, drawn
from torch import Tensor, nn
from torch.nn import functional

from bdscan.facts.problem import Problem
from bdscan.images.source import open_images
from bdscan.load.assembly.assemble import load
from bdscan.load.assembly.loaded import Loaded
from bdscan.load.contents import survey
from bdscan.load.nets.candidate import Outline, outline_of
from bdscan.load.search import infer
from bdscan.load.search.chain import Residual, chains
from bdscan.load.search.parts import parts_of
from bdscan.load.search.schedule import schedules
from bdscan.write.cleaned import write

NAMES = [f"stripe-{i}" for i in range(CLASSES)]
State = dict[str, Tensor]


class Plain(nn.Module):
    """The order of the names is not the order in which the layers run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.bn1(functional.relu(self.conv1(x))), 2)
        x = functional.max_pool2d(self.bn2(functional.relu(self.conv2(x))), 2)
        logits: Tensor = self.fc2(functional.relu(self.fc1(x.flatten(1))))
        return logits


class Averaged(nn.Module):
    """No norm; what is uncommon in it, the images tell."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3), nn.Tanh(), nn.AvgPool2d(2)
        )
        self.out = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body(x).flatten(1))
        return logits


def _trained(net: nn.Module) -> nn.Module:
    images, labels = (torch.from_numpy(array) for array in drawn(1800, seed=1))
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    for _ in range(10):
        for part in torch.randperm(len(pixels)).split(60):
            optimizer.zero_grad()
            functional.cross_entropy(net(pixels[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"plain": _trained(Plain()), "averaged": _trained(Averaged())}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    images, labels = drawn(300, seed=2)
    return _saved(tmp_path_factory.mktemp("clean") / "data.npz", images, labels)


def _saved(path: Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez(path, images=images, labels=labels, names=np.array(NAMES))
    return str(path)


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for such small nets."""
    monkeypatch.setattr(infer, "_MAX_WORK", 3e10)


def _load(state: State, folder: Path, clean: str | None) -> Loaded:
    torch.save(state, folder / "net.pth")
    return load(survey(str(folder / "net.pth")), images=open_images(clean) if clean else None)


def test_the_structure_is_found(nets: dict[str, nn.Module], clean: str, tmp_path: Path) -> None:
    loaded = _load(nets["plain"].state_dict(), tmp_path, clean)
    structure = "conv5x5-8, relu, norm, maxpool2, conv3x3-16, relu, norm, maxpool2, linear-32, relu, linear-6"
    assert loaded.arch == f"inferred: {structure}"
    assert loaded.normalize == "half"
    assert not loaded.doubts
    assert any("structure inferred from the images" in note for note in loaded.notes)
    inner = loaded.suspect.net.net
    assert inner.state_dict().keys() == nets["plain"].state_dict().keys()
    pixels = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(inner(pixels), nets["plain"](pixels), atol=1e-4)
    assert loaded.suspect.head == "fc2"
    assert len(loaded.suspect.maps) > 4
    _check_written(loaded, tmp_path)


class _Tried(infer.Tried):
    """A structure that is so unusual and so often right."""

    def __init__(self, unusual: float, accuracy: float) -> None:
        self.structure = SimpleNamespace(form_cost=unusual)  # type: ignore[assignment]
        self.trial = SimpleNamespace(drift=0.0)  # type: ignore[assignment]
        self.right = accuracy

    @property
    def accuracy(self) -> float:
        return self.right


@pytest.mark.parametrize(("plain", "first"), [(0.64, 1), (0.6, 0)])
def test_the_plainer_of_two_that_are_about_as_good_comes_first(plain: float, first: int) -> None:
    odd, usual = _Tried(4.0, 0.66), _Tried(1.0, plain)
    ranked = infer.plain_first([odd, usual])
    assert ranked[0] is (odd, usual)[first] and {id(each) for each in ranked} == {id(odd), id(usual)}


@pytest.mark.parametrize("work", [4e9, 2e10])
def test_an_odd_structure_is_not_taken_for_a_plain_one_that_works_nearly_as_well(
    nets: dict[str, nn.Module], clean: str, tmp_path: Path, work: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On these images, pads and a second pool do even better than what the net was trained with."""
    monkeypatch.setattr(infer, "_MAX_WORK", work)
    loaded = _load(nets["averaged"].state_dict(), tmp_path, clean)
    right = loaded.arch == "inferred: conv5x5-8, tanh, avgpool2, conv3x3-16, tanh, avgpool2, linear-6"
    assert right or any("not settled" in doubt for doubt in loaded.doubts)
    _check_written(loaded, tmp_path)


def _check_written(loaded: Loaded, folder: Path) -> None:
    """A changed net goes back under the names of the file, in their order."""
    cleaned = loaded.suspect.clone()
    with torch.no_grad():
        for parameter in cleaned.net.net.parameters():
            parameter.mul_(0.5)
    write(survey(str(folder / "net.pth")), loaded, cleaned, folder / "cleaned.pth")
    before, after = (torch.load(folder / name, weights_only=True) for name in ("net.pth", "cleaned.pth"))
    assert list(before) == list(after)
    weights = cleaned.net.net.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in after)


def _permuted(state: State) -> State:
    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
        for name, tensor in state.items()
    }


def _random(state: State) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        fresh = Plain() if "bn1.weight" in state else Averaged()
    return fresh.state_dict()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain", _permuted),
        ("averaged", _random),
        pytest.param("plain", _random, marks=pytest.mark.slow),
        pytest.param("averaged", _permuted, marks=pytest.mark.slow),
    ],
)
def test_other_weights_are_refused(
    nets: dict[str, nn.Module], clean: str, tmp_path: Path, name: str, change: Callable[[State], State]
) -> None:
    with pytest.raises(Problem, match=r"of \d+ structures tried on 300 clean images none is convincing"):
        _load(change(nets[name].state_dict()), tmp_path, clean)


def _shuffled(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels[:] = np.random.default_rng(0).permutation(labels)
    return images


def _squares(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Another task of as many classes."""
    squares = np.random.default_rng(0).integers(0, 160, images.shape, dtype=np.uint8)
    for image, label in zip(squares, labels, strict=True):
        row, column = divmod(int(label), 3)
        image[8 * row : 8 * row + 5, 5 * column : 5 * column + 5] += 90
    return squares


@pytest.mark.parametrize("name", ["plain", pytest.param("averaged", marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", [_shuffled, _squares])
def test_other_labels_and_other_images_are_refused(
    nets: dict[str, nn.Module], tmp_path: Path, name: str, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    images, labels = drawn(300, seed=2)
    other = change(images, labels)
    with pytest.raises(Problem, match="none is convincing"):
        _load(nets[name].state_dict(), tmp_path, _saved(tmp_path / "other.npz", other, labels))


def test_another_order_of_classes_is_told_apart(nets: dict[str, nn.Module], tmp_path: Path) -> None:
    images, labels = drawn(300, seed=2)
    order = np.array([3, 0, 5, 1, 2, 4])
    loaded = _load(nets["averaged"].state_dict(), tmp_path, _saved(tmp_path / "other.npz", images, order[labels]))
    doubt = next(doubt for doubt in loaded.doubts if "another order" in doubt)
    assert "tanh, avgpool2" in loaded.arch
    assert str([f"stripe-{i}" for i in order]).replace("'", '"') in doubt
    assert "--classes FILE" in doubt


def test_without_images_the_refusal_says_what_they_are_good_for(nets: dict[str, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no net that bdscan knows") as refused:
        _load(nets["plain"].state_dict(), tmp_path, None)
    assert "`--clean DATA`" in refused.value.hint


def test_few_images_infer_nothing(nets: dict[str, nn.Module], tmp_path: Path) -> None:
    images, labels = drawn(60, seed=2)
    with pytest.raises(Problem, match="60 clean images, and 100 are needed"):
        _load(nets["plain"].state_dict(), tmp_path, _saved(tmp_path / "few.npz", images, labels))


def _outline(*shapes: tuple[str, tuple[int, ...]]) -> Outline:
    return dict(shapes)


def test_widths_tell_the_order_and_names_the_norms() -> None:
    net = nn.ModuleDict({"fc": nn.Linear(32, 4), "bn2": nn.BatchNorm2d(16), "bn1": nn.BatchNorm2d(16)})
    net.update({"conv2": nn.Conv2d(16, 16, 3), "conv1": nn.Conv2d(3, 16, 3)})
    parts = parts_of(outline_of(net.state_dict()))
    assert parts is not None
    chain = chains(parts)[0]
    assert [stage.layer.name for stage in chain.stages] == ["conv1", "conv2", "fc"]
    assert [stage.norm and stage.norm.name for stage in chain.stages] == ["bn1", "bn2", None]


def test_shortcuts_are_put_beside_what_they_bridge() -> None:
    outline = _outline(
        ("stem.weight", (8, 3, 3, 3)),
        ("a.conv1.weight", (8, 8, 3, 3)),
        ("a.conv2.weight", (8, 8, 3, 3)),
        ("b.conv1.weight", (16, 8, 3, 3)),
        ("b.conv2.weight", (16, 16, 3, 3)),
        ("b.short.0.weight", (16, 8, 1, 1)),
        ("head.weight", (5, 16)),
    )
    parts = parts_of(outline)
    assert parts is not None
    blocks = [item for item in chains(parts)[0].items if isinstance(item, Residual)]
    bodies = [[stage.layer.name for stage in block.body] for block in blocks]
    assert bodies == [["a.conv1", "a.conv2"], ["b.conv1", "b.conv2"]]
    assert [len(block.shortcut) for block in blocks] == [0, 1]


def test_schedules_give_the_area_that_the_linear_layer_takes() -> None:
    parts = parts_of(_outline(("c1.weight", (6, 3, 5, 5)), ("c2.weight", (16, 6, 5, 5)), ("fc.weight", (10, 400))))
    assert parts is not None
    found = schedules(chains(parts)[0], (3, 32, 32), 5)
    assert [(one.stride, one.padding, one.pool and one.pool.kernel) for one in found[0].spatials] == [
        (1, (0, 0), 2),
        (1, (0, 0), 2),
    ]
    assert not schedules(chains(parts)[0], (3, 4, 4), 5)


@pytest.mark.parametrize(
    "outline",
    [
        _outline(("a.weight", (8, 3, 3, 3)), ("b.weight", (5, 9))),
        _outline(("a.weight", (8, 3, 3, 3)), ("b.query", (5, 8))),
        _outline(("a.weight", (1 << 20, 3, 1, 1)), ("b.weight", (5, 1 << 20))),
        _outline(*((f"l{i}.weight", (64, 64, 3, 3)) for i in range(190)), ("b.weight", (5, 64))),
    ],
)
def test_what_is_no_such_net_is_not_searched(outline: Outline, clean: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in outline.items()}
    with pytest.raises(Problem, match="no net that bdscan knows"):
        _load(state, tmp_path, clean)
