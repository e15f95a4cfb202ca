"""One contract over every method on disk: what a probe may do, whoever wrote it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import SAMPLES
from findings import alike

from bdscan.facts.effort import EFFORTS
from bdscan.facts.finding import Level, Run
from bdscan.facts.problem import USAGE, Problem
from bdscan.images.image_set import ImageSet
from bdscan.load.contents import survey
from bdscan.method import registry
from bdscan.method.case import Earlier, FileCase, ImageCase, NetCase
from bdscan.method.probe import AnyProbe, FileProbe, ImageProbe, NetProbe, Stage, in_order
from bdscan.net.classifier import Classifier
from bdscan.net.fit import fit
from bdscan.verdict.rules import FOLLOW, GAP

METHODS = [(room, name) for room in registry.ROOMS for name in registry.names(room)]
PROBES = registry.names("probes")
HEADINGS = ("What it measures", "Why it shows a backdoor", "When it misleads", "Reference")
QUICK = {"steps": 3, "least": 4}  # for probes that optimise: the contract is about manners, not about power


class Stop(Exception):
    """What the failing progress callback raises."""


def configured(name: str) -> AnyProbe:
    probe: AnyProbe = registry.configure("probes", name, {})
    fields = {field.name for field in dataclasses.fields(probe)}  # type: ignore[arg-type]
    return dataclasses.replace(probe, **{name: QUICK[name] for name in QUICK.keys() & fields})  # type: ignore[type-var]


def case_for(name: str, suspect: Classifier, clean: ImageSet | None) -> Earlier:
    """A case in which the probes whose findings this one may use have run."""
    if kind_of(name).stage is Stage.FILE:
        return FileCase(contents=survey(str(SAMPLES / "models" / "clean.pt")), effort="fast")
    runs = tuple(run_of(each, suspect, clean) for each in earlier_than(name) if clean or not needs_images(each))
    if clean is None:
        return NetCase(suspect=suspect, runs=runs, effort="fast")
    working, held_out = clean.split(0.5, 0)
    return ImageCase(suspect=suspect, clean=working, held_out=held_out, runs=runs, effort="fast")


def kind_of(name: str) -> type[AnyProbe]:
    kind: type[AnyProbe] = registry.find("probes", name)
    return kind


def needs_images(name: str) -> bool:
    return issubclass(kind_of(name), ImageProbe)


def earlier_than(name: str) -> list[str]:
    """All of the stages before, and of its own stage the families that it reads."""
    mine = kind_of(name)
    order = in_order({each: configured(each) for each in PROBES})
    return [
        each
        for each in order[: order.index(name)]
        if kind_of(each).stage < mine.stage or kind_of(each).family in mine.reads
    ]


RUNS: dict[tuple[str, bool], Run] = {}  # `tiny` and `few` are the same for every test, and so is what is found


def run_of(name: str, suspect: Classifier, clean: ImageSet | None) -> Run:
    key = (name, clean is None)
    if key not in RUNS:
        findings = tuple(configured(name)(case_for(name, suspect, clean)))
        RUNS[key] = Run(probe=name, family=kind_of(name).family, findings=findings)
    return RUNS[key]


def state(suspect: Classifier) -> dict[str, object]:
    """Everything that a probe must leave as it was."""
    modules = list(suspect.net.modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": suspect.digest(),
        "mode": [module.training for module in modules],
        "frozen": [p.requires_grad for p in suspect.net.parameters()],
        "gradients": [p.grad is None for p in suspect.net.parameters()],
        "hooks": [len(getattr(module, kind)) for module in modules for kind in hooks],
        "modules": [name for name, _ in suspect.net.named_modules()],
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def failing_at(call: int) -> Callable[[int, int, str], None]:
    calls = iter(range(call))

    def progress(done: int, total: int, what: str) -> None:
        if next(calls, None) is None:
            raise Stop

    return progress


@pytest.mark.parametrize(("room", "name"), METHODS)
def test_a_method_is_one_file(room: str, name: str) -> None:
    kind = registry.find(room, name)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen, "settings do not change under way"  # type: ignore[attr-defined]
    first, _, rest = registry.manual(room, name).partition("\n")
    assert first.endswith(".")
    assert len(first) <= 120, "the first line is one line of `bdscan methods`"
    assert "Reference" in rest
    assert registry.summary(room, name) == first


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_has_a_manual(name: str) -> None:
    found = re.findall(r"^(\w.*)$", registry.manual("probes", name).partition("\n")[2], re.MULTILINE)
    assert tuple(found) == HEADINGS


@pytest.mark.parametrize(("room", "name"), METHODS)
def test_settings_are_plain_and_survive_the_command_line(room: str, name: str) -> None:
    default = registry.configure(room, name, {})
    given = registry.settings(default)
    assert all(isinstance(value, bool | int | float | str) for value in given.values()), given
    assert registry.configure(room, name, {key: str(value) for key, value in given.items()}) == default
    described = {setting.name: setting.why for setting in registry.described(room, name)}
    assert described.keys() == given.keys()
    assert all(described.values()), f"where does the number come from? {described}"


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_says_what_it_needs(name: str) -> None:
    kind = registry.find("probes", name)
    assert issubclass(kind, FileProbe | NetProbe | ImageProbe)
    assert kind.stage in Stage
    assert (kind.stage is Stage.FILE) == issubclass(kind, FileProbe)
    assert kind.effort in EFFORTS
    assert kind.family, "probes of one family do not corroborate one another: name it"
    same_stage = {kind_of(each).family for each in PROBES if each != name and kind_of(each).stage is kind.stage}
    assert set(kind.reads) <= same_stage, "what earlier stages found, every probe may use"


def test_no_probe_runs_before_one_whose_findings_it_uses() -> None:
    order = in_order({name: configured(name) for name in PROBES})
    assert sorted(order) == PROBES
    stages = [kind_of(name).stage for name in order]
    assert stages == sorted(stages)
    for name in PROBES:
        assert all(order.index(each) < order.index(name) for each in earlier_than(name))


@pytest.mark.parametrize("name", PROBES)
def test_a_demonstration_takes_as_much_in_every_probe(name: str) -> None:
    defaults = registry.settings(registry.configure("probes", name, {}))
    assert defaults.get("follow", FOLLOW) == FOLLOW
    assert defaults.get("gap", GAP) == GAP


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_finds_something_to_say(name: str, tiny: Classifier, few: ImageSet) -> None:
    findings = tuple(configured(name)(case_for(name, tiny, few)))
    assert findings, "a probe that has nothing to report says so"
    for finding in findings:
        assert finding.message
        assert not finding.message.endswith(".")
        assert "\n" not in finding.message
        assert finding.target is None or 0 <= finding.target < tiny.classes
        if finding.level > Level.NOTE and name != "artifact":
            assert finding.threshold is not None
            assert finding.measure is not None
            assert finding.measure.crossed, "what is no note lies on the suspicious side of its threshold"
        assert finding.statistic is None or finding.statistic in kind_of(name).statistics
        assert finding.p_value is None or 0 <= finding.p_value <= 1


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_leaves_everything_as_it_was(name: str, tiny: Classifier, few: ImageSet) -> None:
    case = case_for(name, tiny, few)
    clean = case.clean if isinstance(case, ImageCase) else few
    before, images = state(tiny), clean.images.clone()
    list(configured(name)(case))
    assert state(tiny) == before
    assert torch.equal(clean.images, images)


@pytest.mark.parametrize("call", [0, 1, 3])
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_that_fails_leaves_everything_as_it_was(name: str, call: int, tiny: Classifier, few: ImageSet) -> None:
    case = dataclasses.replace(case_for(name, tiny, few), progress=failing_at(call))
    before = state(tiny)
    with contextlib.suppress(Stop):
        list(configured(name)(case))
    assert state(tiny) == before


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_that_is_dropped_leaves_everything_as_it_was(name: str, tiny: Classifier, few: ImageSet) -> None:
    case = case_for(name, tiny, few)
    before = state(tiny)
    found = configured(name)(case)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert state(tiny) == before


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_answers_the_same_twice(name: str, tiny: Classifier, few: ImageSet) -> None:
    case = case_for(name, tiny, few)
    first = list(configured(name)(case))
    torch.manual_seed(123)  # the answer depends on the case's seed alone
    second = list(configured(name)(case))
    assert len(first) == len(second)
    assert all(alike(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", [name for name in PROBES if not needs_images(name)])
def test_a_probe_that_needs_no_images_does_without(name: str, tiny: Classifier) -> None:
    assert list(configured(name)(case_for(name, tiny, None)))


@pytest.mark.parametrize("name", [name for name in PROBES if kind_of(name).stage is not Stage.FILE])
def test_a_probe_tells_how_far_it_is(name: str, tiny: Classifier, few: ImageSet) -> None:
    """Also the only place where an overdue probe can be stopped."""
    told: list[tuple[int, int, str]] = []
    case = case_for(name, tiny, few)
    list(configured(name)(dataclasses.replace(case, progress=lambda *said: told.append(said))))
    assert told
    assert all(0 <= done <= total and what for done, total, what in told)


FEW_VALUED = [(room, name, s) for room, name in METHODS for s in registry.described(room, name) if s.values]


@pytest.mark.parametrize(("room", "name", "setting"), FEW_VALUED, ids=lambda each: getattr(each, "name", each))
def test_a_setting_with_few_values_takes_those_and_no_other(room: str, name: str, setting: registry.Setting) -> None:
    for value in setting.values:
        method = registry.configure(room, name, {setting.name: value})
        assert getattr(method, setting.name) == value
    with pytest.raises(Problem, match=f"`{name}.{setting.name}` is one of") as caught:
        registry.configure(room, name, {setting.name: setting.values[0][:-1]})
    assert caught.value.status == USAGE
    assert all(f"`{value}`" in caught.value.message for value in setting.values)
    assert caught.value.message.endswith(f"did you mean `{setting.values[0]}`?")


def test_a_misspelt_schedule_is_wrong_usage_with_a_suggestion(bdscan) -> None:  # type: ignore[no-untyped-def]
    wrong = ("--method", "fst", "--set", "fst.schedule=cosin")
    status, _, error = bdscan("purify", "x.pt", "--clean", "y", "-o", "z.pt", *wrong)
    assert status == USAGE
    assert "did you mean `cosine`?" in error
    _, shown, _ = bdscan("methods", "fst")
    assert "one-cycle | cosine | constant" in shown


def test_training_knows_its_schedules_and_no_other() -> None:
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    with pytest.raises(AssertionError, match="cosin"):
        fit(net, images, labels, epochs=1, schedule="cosin")  # type: ignore[arg-type]
