"""The last stage of anti-backdoor learning: what is unlearned, what it may cost, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import CLASSES, SIDE, poisoned, written

from bdscan.images.image_set import ImageSet
from bdscan.load.arch.fresh import fresh
from bdscan.method.trainer import TrainCase
from bdscan.net.checkpoint import TrainingCheckpoint
from bdscan.net.classifier import Normalised
from bdscan.train._stages import train_new_net
from bdscan.train._unlearn import UnlearnProgress, share, unlearn


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> TrainCase:
    images, labels, marked = poisoned(900, 0.1)
    _, arch = written(tmp_path_factory.mktemp("net"), images, labels)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    data = ImageSet(pixels, torch.from_numpy(labels), files=tuple("yes" if bad else "no" for bad in marked))

    def new() -> Normalised:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Normalised(fresh(arch, CLASSES, (3, SIDE, SIDE)), (0.5,) * 3, (0.25,) * 3)

    return TrainCase(
        fresh=new,
        data=data,
        classes=CLASSES,
        augment=None,
        seed=0,
        progress=lambda done, total, what: None,
        checkpoint=TrainingCheckpoint(None, {}),
    )


def parts(case: TrainCase) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Half of the poisoned images, clean ones to learn by, and clean ones to measure by."""
    bad = torch.tensor([file == "yes" for file in case.data.files])
    clean = (~bad).nonzero()[:, 0]
    isolated = bad.nonzero()[:, 0][::2]
    return case.data.take(isolated), case.data.take(clean[::2]), case.data.take(clean[1::2])


def statistics(net: Normalised) -> list[bytes]:
    return [value.numpy().tobytes() for name, value in net.state_dict().items() if "running" in name]


def test_a_backdoor_is_unlearned_and_the_statistics_stay(case: TrainCase) -> None:
    net, _ = train_new_net(case, torch.arange(len(case.data)), epochs=8, batch=32, rate=0.1, decay=5e-4)
    isolated, others, kept = parts(case)
    before, measured = statistics(net), share(net, kept)
    assert share(net, isolated) > 0.9
    done = unlearn(case, net, isolated, others, kept, rounds=6, batch=32, rate=0.002, loss=0.05)
    assert done.unlearned
    assert share(net, isolated) < 0.2
    assert share(net, kept) >= measured - 0.05
    assert statistics(net) == before


def test_a_round_that_costs_too_much_never_remains(case: TrainCase) -> None:
    net, _ = train_new_net(case, torch.arange(len(case.data)), epochs=8, batch=32, rate=0.1, decay=5e-4)
    isolated, others, kept = parts(case)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    done = unlearn(case, net, isolated, others, kept, rounds=2, batch=32, rate=10.0, loss=0.02)
    assert "cost too much accuracy" in done.record().stopped
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_mistakes_that_others_make_too_are_no_backdoor() -> None:
    measured = {"accuracy": 0.8, "before": (0.1, 0.8), "mistaken": 0.08}
    assert UnlearnProgress(obeyed=0.12, asked=500, **measured).unlearned  # type: ignore[arg-type]
    assert not UnlearnProgress(obeyed=0.2, asked=500, **measured).unlearned  # type: ignore[arg-type]
    assert not np.isnan(UnlearnProgress(obeyed=0.0, accuracy=1.0, before=(0.0, 1.0), mistaken=0.0).obeyed)


def test_nothing_is_kept_of_a_bookmark_without_a_place(tmp_path: Path) -> None:
    book = TrainingCheckpoint(None, {})
    assert not book.resume()
    book.remove()
    assert list(tmp_path.iterdir()) == []
