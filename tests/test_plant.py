"""The known triggers: what they stamp, whom they poison, and that they implant."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdscan.facts.problem import USAGE, Problem
from bdscan.method import registry
from bdscan.method.plant import Plant, PlantMaterial, Poisoned, implant, poison, save, success, trigger
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.fit import fit

NAMES = registry.names("plant")
SHAPES = [(1, 28, 28), (3, 32, 32), (3, 64, 64)]
CLASSES = 4


def configured(name: str, **settings: str) -> Plant:
    plant: Plant = registry.configure("plant", name, settings)
    return plant


def untrained(shape: tuple[int, int, int]) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(shape[0], 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)]
    return Classifier(Normalised(nn.Sequential(*layers), [0.5] * shape[0], [0.25] * shape[0]), shape, CLASSES)


@cache
def made(name: str, shape: tuple[int, int, int] = (3, 32, 32)) -> Plant:
    """With its defaults, and prepared without much ado where it has to be."""
    plant = configured(name)
    if any(field.name == "steps" for field in dataclasses.fields(plant)):  # type: ignore[arg-type]
        plant = configured(name, steps="0" if name == "input_aware" else "2")  # its mask is widest before it learns
    images = noise(8, shape, seed=7).mul(255).to(torch.uint8)
    ground = PlantMaterial(images=images, labels=torch.arange(8) % CLASSES, target=0, net=untrained(shape))
    return plant.prepare(ground)


def noise(count: int, shape: tuple[int, int, int], seed: int = 100) -> Tensor:
    """Seeded unlike the plants: an image that is the picture of a blend would not change."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def shapes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Discs, squares, crosses and rings of any colour, somewhere on a coloured ground."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    across = torch.arange(20).float()
    middle = torch.rand(count, 2, 1, 1, generator=generator) * 6 + 7
    y, x = (across[:, None] - middle[:, 0]).abs(), (across[None] - middle[:, 1]).abs()
    far = (y**2 + x**2).sqrt()
    drawn = torch.stack([far < 5, torch.maximum(x, y) < 4.5, torch.minimum(x, y) < 1.5, (far - 4.5).abs() < 1.2], 1)
    inside = drawn[torch.arange(count), labels][:, None].float()
    ground, ink = torch.rand(2, count, 3, 1, 1, generator=generator)
    images = ground * 0.5 * (1 - inside) + (0.5 + 0.5 * ink) * inside
    images = images + 0.05 * torch.randn(count, 3, 20, 20, generator=generator)
    return images.clamp(0, 1).mul(255).to(torch.uint8), labels


def small_net() -> nn.Module:
    torch.manual_seed(0)

    def block(taken: int, given: int) -> list[nn.Module]:
        return [nn.Conv2d(taken, given, 3, 1, 1), nn.BatchNorm2d(given), nn.ReLU(), nn.MaxPool2d(2)]

    body = [*block(3, 16), *block(16, 32), nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES))


@cache
def surrogate(count: int, epochs: int) -> Classifier:
    images, labels = shapes(count, 0)
    net = fit(small_net(), images, labels, epochs=epochs, rate=0.05, batch=64, half=False)
    return Classifier(Normalised(net, [0.0] * 3, [1.0] * 3), (3, 20, 20), CLASSES)


def planted(plant: Plant, share: float | None = None, count: int = 1500, epochs: int = 6) -> tuple[float, float]:
    """Clean accuracy and attack success of a small net trained on poisoned shapes."""
    images, labels = shapes(count, 0)
    course: dict[str, Any] = {"epochs": epochs, "rate": 0.05, "batch": 64, "half": False}
    victim = surrogate(count, epochs) if plant.needs_net else None
    plant = plant.prepare(PlantMaterial(images=images, labels=labels, target=0, net=victim))
    net = implant(small_net(), plant, images, labels, target=0, classes=CLASSES, share=share, **course)
    images, labels = shapes(400, 1)
    with torch.no_grad():
        accuracy = float((net(images.float() / 255).argmax(1) == labels).float().mean())
    return accuracy, success(net, plant, images, labels, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_stamps_any_shape_within_range_and_twice_the_same(name: str, shape: tuple[int, int, int]) -> None:
    pixels = noise(6, shape)
    before = pixels.clone()
    stamped = made(name, shape)(pixels)
    assert stamped.shape == pixels.shape
    assert stamped.min() >= 0 and stamped.max() <= 1
    assert (stamped != pixels).flatten(1).any(1).all()
    assert torch.equal(pixels, before)
    assert torch.equal(stamped, made(name, shape)(pixels))


@pytest.mark.parametrize("name", NAMES)
def test_batch_plays_no_part(name: str) -> None:
    plant, pixels = made(name), noise(5, (3, 32, 32))
    assert torch.allclose(plant(pixels)[3:], plant(pixels[3:]), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_training_images_stay_in_range(name: str) -> None:
    plant, pixels, generator = made(name), noise(4, (3, 32, 32)), torch.Generator().manual_seed(0)
    for stamped in (plant.for_training(pixels, generator), plant.cover(pixels, generator)):
        assert stamped.shape == pixels.shape
        assert stamped.min() >= 0 and stamped.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_manual(name: str) -> None:
    manual = registry.manual("plant", name)
    assert manual.splitlines()[0].endswith(".")
    for heading in ("What it does", "Why it implants", "What it breaks", "Reference"):
        assert f"\n{heading}\n" in manual
    assert all(setting.why for setting in registry.described("plant", name))


@pytest.mark.parametrize("name", NAMES)
def test_poisons_the_share_it_was_told(name: str) -> None:
    images = noise(600, (3, 16, 16)).mul(255).to(torch.uint8)
    labels = torch.arange(600) % 6
    plant = made(name, (3, 16, 16))
    bad = poison(images, labels, plant, target=2, classes=6, share=0.1, seed=3)
    assert bad.poisoned.sum() == 60
    assert bad.cover.sum() == round(60 * plant.cover_share / plant.share)
    assert not (bad.poisoned & bad.cover).any()
    untouched = ~(bad.poisoned | bad.cover)
    assert torch.equal(bad.images[untouched], images[untouched])
    assert torch.equal(bad.labels[~bad.poisoned], labels[~bad.poisoned])
    assert (bad.labels[bad.poisoned] == 2).all()
    assert ((labels[bad.poisoned] == 2).all()) == plant.clean_label
    assert (bad.images[bad.poisoned] != images[bad.poisoned]).flatten(1).any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_made_can_be_kept(name: str) -> None:
    plant, pixels = made(name), noise(3, (3, 32, 32))
    again = configured(name).recall(plant.learned())
    assert torch.equal(again(pixels), plant(pixels))
    assert all(tensor.device.type == "cpu" for tensor in plant.learned().values())


@pytest.mark.parametrize("name", ["trojannn", "input_aware", "label_consistent"])
def test_what_has_not_been_made_says_so(name: str) -> None:
    with pytest.raises(Problem, match=name):
        configured(name).for_training(noise(1, (3, 32, 32)), torch.Generator())


def test_preparing_is_seeded_and_leaves_the_net_and_the_random_state() -> None:
    images, labels, net = noise(40, (3, 16, 16)).mul(255).to(torch.uint8), torch.arange(40) % 4, untrained((3, 16, 16))
    before, state = net.digest(), torch.get_rng_state()
    for name in ("trojannn", "input_aware", "label_consistent"):

        def run(seed: int, name: str = name) -> Tensor:
            ground = PlantMaterial(images=images, labels=labels, target=0, net=net, seed=seed)
            plant = configured(name, steps="2").prepare(ground)
            return plant.for_training(images[:4].float() / 255, torch.Generator().manual_seed(seed))

        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))
    assert net.digest() == before and torch.equal(torch.get_rng_state(), state)


def test_trojan_patch_excites_the_features_that_count() -> None:
    """Higher than the patch that it started from, over images that it was not made on."""
    images, labels, net = noise(40, (3, 16, 16)).mul(255).to(torch.uint8), torch.arange(40) % 4, untrained((3, 16, 16))
    ground = PlantMaterial(images=images, labels=labels, target=0, net=net)
    first, last = (configured("trojannn", steps=steps).prepare(ground) for steps in ("0", "60"))
    steered = net.head_weight.abs().sum(0).topk(2).indices
    pixels = noise(20, (3, 16, 16), seed=5)
    with torch.no_grad():
        low, high = (net.features(plant(pixels))[:, steered].mean(0) for plant in (first, last))
    assert (high > low).all()


def test_label_consistent_images_are_hard_and_near() -> None:
    net, pixels = untrained((3, 16, 16)), noise(20, (3, 16, 16))
    ground = PlantMaterial(images=torch.empty(0), labels=torch.empty(0), target=2, net=net)
    plant = configured("label_consistent").prepare(ground)
    changed = plant.for_training(pixels, torch.Generator().manual_seed(0))
    inside = slice(3, -3)  # off the corners
    assert float((changed - pixels)[:, :, inside, inside].abs().max()) <= 8 / 255 + 1e-6
    with torch.no_grad():
        believed = [net(images).softmax(1)[:, 2].mean() for images in (plant(pixels), changed)]
    assert believed[1] < believed[0]


def test_every_image_gets_a_pattern_of_its_own() -> None:
    plant, pixels = made("input_aware"), noise(4, (3, 32, 32))
    own, crossed = plant(pixels), plant.cover(pixels, torch.Generator().manual_seed(1))
    changes = (own - pixels).flatten(1)
    assert all((changes[i] != changes[j]).any() for i in range(4) for j in range(i))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1))
    assert ((crossed != own).flatten(1).any(1) == (order != torch.arange(4))).all()


def test_poisoning_is_seeded() -> None:
    images, labels = shapes(200, 0)

    def run(seed: int) -> Poisoned:
        return poison(images, labels, configured("wanet"), target=0, classes=CLASSES, seed=seed)

    assert torch.equal(run(1).images, run(1).images)
    assert not torch.equal(run(1).poisoned, run(2).poisoned)


def test_no_share_poisons_nothing() -> None:
    images, labels = shapes(50, 0)
    bad = poison(images, labels, configured("wanet"), target=0, classes=CLASSES, share=0.0)
    assert torch.equal(bad.images, images) and not bad.poisoned.any() and not bad.cover.any()


def test_clean_label_takes_no_more_than_there_are() -> None:
    images, labels = shapes(100, 0)
    bad = poison(images, labels, configured("sig"), target=1, classes=CLASSES, share=0.9)
    assert torch.equal(bad.poisoned, labels == 1)
    assert torch.equal(bad.labels, labels)


def test_one_source_poisons_and_covers_the_right_classes() -> None:
    images, labels = shapes(400, 0)
    bad = poison(images, labels, configured("tact", source="3"), target=0, classes=CLASSES, share=0.05)
    assert (labels[bad.poisoned] == 3).all()
    assert set(labels[bad.cover].tolist()) == {1, 2}
    with pytest.raises(Problem, match="nothing to poison") as raised:
        poison(images, labels, configured("tact", source="0"), target=0, classes=CLASSES)
    assert raised.value.status == USAGE


def test_success_counts_only_images_that_can_move() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)

    def says(*classes: int) -> float:
        logits = torch.eye(CLASSES)[list(classes)]
        return success(lambda _: logits, plant, images, labels, 0)

    plant = configured("badnets")
    assert says(0, 0, 0, 1) == pytest.approx(2 / 3)
    plant = configured("badnets", all_to_all="true")
    assert says(1, 2, 3, 0) == 1 and says(0, 0, 0, 0) == 0.25
    plant = configured("tact", source="2")
    assert says(1, 1, 0, 1) == 1 and says(0, 0, 1, 0) == 0
    plant = configured("tact", source="0")
    assert math.isnan(says(0, 0, 0, 0))


def test_patch_lies_where_it_is_told() -> None:
    stamped = configured("badnets", size="2", row="1", column="-3", colour="#ff8000")(torch.full((1, 3, 8, 8), 0.25))[0]
    assert stamped[:, 1:3, 5:7].mean((1, 2)).tolist() == pytest.approx([1, 128 / 255, 0])
    stamped[:, 1:3, 5:7] = 0.25
    assert (stamped == 0.25).all()


def test_jitter_moves_the_patch_from_image_to_image() -> None:
    pixels = noise(40, (3, 16, 16))
    changed = (configured("badnets", jitter="4", colour="white")(pixels) != pixels).any(1)
    assert (changed.flatten(1).sum(1) == 9).all()
    corners = {tuple(each.nonzero()[0].tolist()) for each in changed}
    assert len(corners) > 10
    assert all(8 <= row <= 13 and 8 <= column <= 13 for row, column in corners)


@pytest.mark.parametrize("settings", [{"colour": "pink"}, {"size": "40"}])
def test_impossible_patch_is_a_problem(settings: dict[str, str]) -> None:
    with pytest.raises(Problem):
        configured("badnets", **settings)(noise(1, (3, 32, 32)))


def test_sine_repeats_and_keeps_its_height() -> None:
    change = configured("sig")(torch.full((1, 3, 32, 24), 0.5)) - 0.5
    assert torch.allclose(change[..., :20], change[..., 4:], atol=1e-5)
    assert float(change.abs().max()) == pytest.approx(40 / 255)


def test_frequencies_land_where_the_paper_says() -> None:
    from bdscan.plant.ftrojan import cosines

    change = configured("ftrojan")(torch.full((1, 3, 32, 32), 0.5)) - 0.5
    wave = cosines(32)
    assert torch.allclose(wave @ wave.T, torch.eye(32), atol=1e-4)
    spectrum = wave @ (change[0, 0] / 1.402) @ wave.T * 255
    assert [[round(v) for v in row] for row in (spectrum > 1).nonzero().tolist()] == [[15, 15], [31, 31]]
    assert float(spectrum[15, 15]) == pytest.approx(30, abs=0.1)


def test_levels() -> None:
    pixels = noise(2, (3, 16, 16))
    for dither in ("false", "true"):
        stamped = configured("bpp", levels="4", dither=dither)(pixels)
        assert set((stamped * 3).round(decimals=3).unique().tolist()) <= {0, 1, 2, 3}
    assert float((stamped.mean() - pixels.mean()).abs()) < 0.01  # dithering keeps the brightness


def test_half_of_the_tiles_are_shown_in_training() -> None:
    pixels, plant = torch.zeros(8, 3, 32, 32), configured("adaptive_blend", visible="0.5")
    shown = plant.for_training(pixels, torch.Generator().manual_seed(0)).amax(1).unfold(1, 8, 8).unfold(2, 8, 8)
    shown = shown.amax((3, 4)) > 0
    assert (shown.flatten(1).sum(1) == 8).all()
    assert (shown != shown[0]).any()


@pytest.mark.parametrize("name", ["badnets", "blend", "tact", "adaptive_blend", "adaptive_patch"])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_saved_trigger_does_the_same(
    name: str, shape: tuple[int, int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("saved") / "trigger.npz"
    plant = configured(name)
    save(plant, path, shape)
    with np.load(path) as saved:
        mask, pattern = torch.from_numpy(saved["mask"]), torch.from_numpy(saved["pattern"]).permute(2, 0, 1)
    pixels = noise(3, shape, seed=9)
    assert torch.allclose((1 - mask) * pixels + mask * pattern, plant(pixels), atol=1e-3)


@pytest.mark.parametrize("name", ["sig", "wanet", "lowfreq", "bpp", "ftrojan"])
def test_what_is_no_patch_is_not_saved_as_one(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("saved") / "trigger.npz"
    assert trigger(configured(name), (3, 32, 32)) is None
    with pytest.raises(Problem, match=name):
        save(configured(name), path, (3, 32, 32))
    assert not path.exists()


@pytest.mark.parametrize(("name", "settings"), [("badnets", {}), ("lowfreq", {}), ("wanet", {"strength": "2"})])
def test_implants(name: str, settings: dict[str, str]) -> None:
    accuracy, reached = planted(configured(name, **settings), epochs=9)
    assert accuracy > 0.9
    assert reached > 0.8


# Where a share is given, it stands for as many images as the usual share of 50,000 is, or more: 6,000 are few.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "share"),
    [
        ("badnets", {"all_to_all": "true"}, None),
        ("badnets", {"jitter": "10"}, None),
        ("blend", {}, None),
        ("bpp", {"levels": "4"}, None),
        ("ftrojan", {}, None),
        ("adaptive_blend", {}, 0.05),
        ("adaptive_patch", {}, 0.025),
        ("tact", {}, 0.025),
        ("trojannn", {}, None),
        ("input_aware", {}, None),
    ],
)
def test_implants_slowly(name: str, settings: dict[str, str], share: float | None) -> None:
    accuracy, reached = planted(configured(name, **settings), share, count=6000, epochs=15)
    assert accuracy > 0.9
    assert reached > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("sig", {"amplitude": "0.2"}), ("label_consistent", {"size": "5", "epsilon": "0.063", "step": "0.02"})],
)
def test_clean_label_implants_at_the_cost_of_its_class(name: str, settings: dict[str, str]) -> None:
    """With every image of the class changed, as usual on CIFAR-10, the net takes the change for the class."""
    accuracy, reached = planted(configured(name, **settings), 1 / CLASSES, count=6000, epochs=12)
    assert accuracy > 0.7
    assert reached > 0.8
