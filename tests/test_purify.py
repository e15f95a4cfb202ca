"""What every purifier owes, on two small nets of which one answers a patch."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from planted_net import CLASSES, TARGET, images, net, stamped

from bdscan.facts.evidence import MaskedPattern, Pictures, RecoveredTrigger
from bdscan.facts.finding import Finding, Level, Run
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.method import registry
from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.net.classifier import Classifier
from bdscan.net.training_plan import accuracy
from bdscan.pipeline.options import PurifyOptions
from bdscan.pipeline.purify import chosen

PURIFIERS = registry.names("purify")
HEADINGS = ("What it does", "Why it removes a backdoor", "When it fails", "Reference")


# What the papers say, or their authors' code where they are silent; FT: BackdoorBench's fine-tuning.
PUBLISHED: dict[str, dict[str, float | str]] = {
    "finetune": {"epochs": 100, "rate": 0.01, "decay": 5e-4},
    "fst": {"alpha": 0.1, "epochs": 10, "rate": 0.01, "decay": 0, "schedule": "cosine", "keep": 0, "unlearn": 0},
    "nba": {"sure": 1, "quiet": 0},
    "polarizer": {
        **{"where": "one", "attacked": 0.4, "reach": 3, "hops": 2, "stamped": 128, "keep": 0, "unlearn": 0},
        **{"measure": False, "epochs": 50, "rate": 0.01, "decay": 5e-4, "schedule": "constant", "quiet": 0},
    },
    "prune": {"layers": "last", "epochs": 0, "quiet": 0},
}


class Stop(Exception):
    """What the failing progress callback raises."""


@cache
def pointed_at(target: int) -> tuple[Run, ...]:
    """Runs as the inversion probe leaves them: a patch was recovered and shown."""
    mask, pattern = torch.zeros(16, 16), torch.zeros(16, 16, 3)
    mask[-4:, -4:] = 0.9
    pattern[-4:, -4:] = ((torch.arange(4)[:, None] + torch.arange(4)) % 2).float()[..., None]
    some = images(3, 7).images
    finding = Finding(
        level=Level.BACKDOOR,
        message="shown",
        target=target,
        demonstrated=True,
        trigger=RecoveredTrigger(pixels=MaskedPattern(mask.numpy(), pattern.numpy()), form="patch", room=0.07),
        pictures=Pictures(images=some.permute(0, 2, 3, 1).numpy(), stamped=stamped(some).permute(0, 2, 3, 1).numpy()),
    )
    return (Run(probe="inversion", family="inversion", findings=(finding,)),)


def case(*, backdoored: bool) -> PurifyCase:
    runs = pointed_at(TARGET) if backdoored else ()
    return PurifyCase(suspect=net(backdoored=backdoored), clean=images(240, 3), runs=runs)


def obeys(suspect: Classifier) -> float:
    """How often the patch works, on images nobody has seen."""
    fresh = images(300, 9)
    others = fresh.labels != TARGET
    with torch.no_grad():
        went = suspect(stamped(fresh.images)[others].float() / 255).argmax(1)
    return float((went == TARGET).float().mean())


@cache
def treated(name: str, *, backdoored: bool) -> Purified:
    purifier: Purifier = registry.configure("purify", name, {})
    return purifier(case(backdoored=backdoored))


@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_has_a_manual(name: str) -> None:
    said = [line for line in registry.manual("purify", name).splitlines()[1:] if line and not line.startswith(" ")]
    assert tuple(said) == HEADINGS


@pytest.mark.parametrize("name", PURIFIERS)
def test_the_suspect_stays_as_it_was(name: str) -> None:
    suspect = net(backdoored=True)
    before, grads = suspect.digest(), [p.requires_grad for p in suspect.net.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in suspect.net.modules())
    treated(name, backdoored=True)
    assert suspect.digest() == before
    assert [p.requires_grad for p in suspect.net.parameters()] == grads
    assert not suspect.net.training
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in suspect.net.modules()) == hooks


@pytest.mark.parametrize("name", PURIFIERS)
def test_the_architecture_is_the_one_it_came_with(name: str) -> None:
    cleaned, suspect = treated(name, backdoored=True).suspect, net(backdoored=True)
    old, new = suspect.net.state_dict(), cleaned.net.state_dict()
    assert [(k, v.shape, v.dtype) for k, v in old.items()] == [(k, v.shape, v.dtype) for k, v in new.items()]
    assert not cleaned.net.training
    assert all(torch.isfinite(v).all() for v in new.values())
    assert cleaned.digest() != suspect.digest()


@pytest.mark.parametrize("name", [name for name in PURIFIERS if name != "finetune"])
def test_the_backdoor_goes_and_the_rest_stays(name: str) -> None:
    suspect, cleaned, fresh = net(backdoored=True), treated(name, backdoored=True).suspect, images(300, 11)
    assert obeys(suspect) >= 0.9
    assert obeys(cleaned) <= 0.25  # a sixth of all images are of any class
    assert accuracy(cleaned, fresh) >= accuracy(suspect, fresh) - 0.05


@pytest.mark.parametrize("name", PURIFIERS)
def test_a_clean_net_still_works(name: str) -> None:
    fresh = images(300, 11)
    try:
        cleaned = treated(name, backdoored=False).suspect
    except Problem as problem:
        assert "trigger" in problem.message  # nothing was recovered, so there is nothing to go by
        return
    assert accuracy(cleaned, fresh) >= accuracy(net(backdoored=False), fresh) - 0.03


@pytest.mark.parametrize("name", PURIFIERS)
def test_same_seed_same_net(name: str) -> None:
    purifier = quick(name)
    first, second = (purifier(case(backdoored=True)).suspect.digest() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", PURIFIERS)
def test_it_can_be_stopped(name: str) -> None:
    """Progress is asked often, and what it raises comes through."""
    suspect = net(backdoored=True)
    before = suspect.digest()
    calls = iter(range(1))

    def progress(done: int, total: int, what: str) -> None:
        assert 0 < done <= total
        assert what
        if next(calls, None) is None:
            raise Stop

    with pytest.raises(Stop):
        quick(name)(replace(case(backdoored=True), progress=progress))
    assert suspect.digest() == before


def quick(name: str) -> Purifier:
    """A few steps: this is about manners, not power."""
    purifier: Purifier = registry.configure("purify", name, {})
    short = {"epochs": 1, "steps": 2, "search": 3, "teacher": 1, "warmup": 1}
    return replace(purifier, **{f.name: short[f.name] for f in fields(purifier) if f.name in short})  # type: ignore[type-var,arg-type]


@pytest.mark.parametrize("name", PURIFIERS)
def test_the_published_settings_are_there_and_work(name: str) -> None:
    purifier: Purifier = registry.configure("purify", name, {}, "paper")
    settings = registry.settings(purifier)
    assert {key: settings[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert registry.configure("purify", name, {key: str(value) for key, value in settings.items()}) == purifier
    short = {key: min(int(settings[key]), most) for key, most in (("epochs", 10), ("steps", 90)) if key in settings}
    cleaned = replace(purifier, **short)(case(backdoored=True)).suspect  # type: ignore[type-var]
    assert accuracy(cleaned, images(300, 11)) >= 0.9


def test_what_is_set_goes_over_the_preset() -> None:
    purifier = registry.configure("purify", "fst", {"alpha": "0.2"}, "paper")
    assert (purifier.alpha, purifier.schedule) == (0.2, "cosine")
    assert registry.configure("purify", "fst", {}).schedule == "one-cycle"


def test_every_method_has_a_preset_of_its_own(tmp_path: Path) -> None:
    """Also where `auto` tries one after the other."""
    tried = dict(chosen(PurifyOptions(output=tmp_path / "out.pt", preset="paper")))
    assert set(tried) == set(PURIFIERS) - {"finetune"}
    assert all(tried[name] == registry.configure("purify", name, {}, "paper") for name in tried)
    with pytest.raises(Problem, match="did you mean `paper`") as caught:
        chosen(PurifyOptions(output=tmp_path / "out.pt", preset="papr"))
    assert caught.value.status == USAGE


def test_images_of_too_few_classes_are_no_reason_to_crash() -> None:
    some = images(240, 3)
    few = some.take((some.labels < 2).nonzero()[:, 0])
    assert isinstance(few, ImageSet)
    out = quick("fst")(replace(case(backdoored=True), clean=few))
    assert out.suspect.classes == CLASSES
