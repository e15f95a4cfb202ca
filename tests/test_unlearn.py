"""What is unlearned, and that unlearning leaves no trace where only clean images may."""

from __future__ import annotations

import numpy as np
import torch
from findings import compared
from planted_net import TARGET, images, net
from torch import nn

from bdscan.facts.evidence import AddedChange, Displacement, RecoveredTrigger
from bdscan.facts.finding import Finding, Level, Run
from bdscan.facts.treatment import Accuracy, Reactivation, TriggerOutcome
from bdscan.method.case import PurifyCase
from bdscan.net.training_plan import plan_for
from bdscan.purify._reactivate import follow
from bdscan.purify._unlearn import (
    GENERAL_FORMS,
    LISTED,
    TriggerPool,
    UnlearnTarget,
    Why,
    fixed_statistics,
    unlearn_targets,
)
from bdscan.purify._verify import checks
from bdscan.triggers.forms import stamper


def case_of(*findings: Finding) -> PurifyCase:
    runs = (Run(probe="p", family="f", findings=findings),)
    return PurifyCase(suspect=net(backdoored=False), clean=images(60, 3), runs=runs)


def found(**evidence: object) -> PurifyCase:
    return case_of(Finding(level=Level.NOTE, message="m", **evidence))  # type: ignore[arg-type]


def warp(room: float | None = None) -> RecoveredTrigger:
    return RecoveredTrigger(pixels=Displacement(np.zeros((16, 16, 2), np.float32)), form="warp", room=room)


def test_a_shown_trigger_is_unlearned_in_its_own_form() -> None:
    assert unlearn_targets(found(demonstrated=True, target=2, trigger=warp())) == (UnlearnTarget("warp", 2),)


def test_the_cure_gets_as_much_room_as_the_shown_trigger_had() -> None:
    roomy = found(demonstrated=True, target=2, trigger=warp(room=0.07))
    assert unlearn_targets(roomy) == (UnlearnTarget("warp", 2, room=0.07),)
    tight, suspect = images(240, 3), net(backdoored=True)
    kinds = [UnlearnTarget("patch", TARGET), UnlearnTarget("patch", TARGET, room=0.6)]
    rooms = [k.room for k in TriggerPool(suspect, tight, kinds, steps=30, seed=0, progress=lambda *_: None).kinds]
    assert rooms[0] < 0.6
    assert rooms[1] == 0.6


def test_a_trigger_off_a_list_is_unlearned_as_it_is() -> None:
    change = np.zeros((16, 16, 3), np.float32)
    change[:, ::2] = 0.1
    listed = RecoveredTrigger(pixels=AddedChange(change))
    (one,) = unlearn_targets(found(demonstrated=True, target=2, trigger=listed))
    assert (one.form, one.target) == (LISTED, 2)
    suspect, clean = net(backdoored=False), images(60, 3)
    pseudo = TriggerPool(suspect, clean, [one], steps=3, seed=0, progress=lambda *_: None)
    stamped, chosen = pseudo.stamp(clean.pixels, clean.labels, 8)
    pseudo.climb()
    torch.testing.assert_close(stamped, (clean.pixels[chosen] + torch.tensor(change).permute(2, 0, 1)).clamp(0, 1))


def test_a_class_that_stands_out_is_unlearned_in_general_forms() -> None:
    p = np.array([0.5, 1e-5, 0.9, 0.4])
    assert unlearn_targets(found(classes=compared(p))) == tuple(
        UnlearnTarget(form, 1, Why.STANDS_OUT) for form in GENERAL_FORMS
    )


def test_where_nothing_stands_out_nothing_is_unlearned_unless_one_insists() -> None:
    case = found(classes=compared(np.array([0.5, 0.3, 0.9])))
    assert unlearn_targets(case) == ()
    assert unlearn_targets(case, sure=1) == tuple(UnlearnTarget(form, 1, Why.LIKELIEST) for form in GENERAL_FORMS)
    assert unlearn_targets(case_of(), sure=1) == ()


def test_triggered_images_leave_no_trace_in_the_running_statistics() -> None:
    norm = nn.BatchNorm2d(3).train()
    norm(torch.rand(8, 3, 4, 4))
    before = [t.clone() for t in (norm.running_mean, norm.running_var, norm.num_batches_tracked) if t is not None]
    with fixed_statistics(norm):
        norm(torch.rand(8, 3, 4, 4) + 9)
    after = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if b is not None)
    norm(torch.rand(8, 3, 4, 4) + 9)
    assert norm.running_mean is not None
    assert not torch.equal(before[0], norm.running_mean)


def test_pseudo_triggers_work_on_the_suspect_and_stay_in_their_room() -> None:
    suspect, clean = net(backdoored=True), images(240, 3)
    pseudo = TriggerPool(suspect, clean, [UnlearnTarget("patch", TARGET)], steps=30, seed=0, progress=lambda *_: None)
    kind = pseudo.kinds[0]
    assert follow(suspect, images(120, 5), TARGET, stamper(kind.form.recovered(0))) >= 0.8
    pixels, labels = clean.pixels[:64], clean.labels[:64]
    stamped, chosen = pseudo.stamp(pixels, labels, 16)
    assert len(chosen) == 16
    assert bool((labels[chosen] != TARGET).all())
    before = [p.detach().clone() for p in kind.form.parameters]
    (suspect(stamped).logsumexp(1).mean()).backward()
    pseudo.climb()
    assert any(not torch.equal(a, b) for a, b in zip(before, kind.form.parameters, strict=True))
    assert float(kind.form.size().detach().max()) <= kind.room * 1.001


def test_few_images_are_trained_on_in_more_epochs_of_smaller_batches() -> None:
    suspect = net(backdoored=False)
    many, few = plan_for(suspect, images(2400, 3), 10, 150), plan_for(suspect, images(60, 3), 10, 150)
    assert few.batch < many.batch
    assert few.epochs > many.epochs
    assert few.epochs * (60 // few.batch) >= 150


def test_a_check_fails_where_the_net_still_obeys_or_forgot_too_much() -> None:
    fine = Accuracy(before=0.9, after=0.89, images=500, p_value=0.4, same=0.95, divergence=0.1)
    worse = Accuracy(before=0.9, after=0.8, images=500, p_value=1e-6, same=0.8, divergence=1.0)
    gone = TriggerOutcome(target=1, form="patch", before=1.0, after=0.02, recovers=0.9, reinverted=0.2, control=0.15)
    moved = TriggerOutcome(target=1, form="patch", before=1.0, after=0.02, recovers=0.9, reinverted=0.95, control=0.15)
    asleep = Reactivation(before=0.02, retuned=0.1, retuned_control=0.1, pushed=0.3, pushed_control=0.25)
    woken = Reactivation(before=0.02, retuned=0.95, retuned_control=0.1, pushed=0.9, pushed_control=0.1)

    def failed(accuracy: Accuracy, obeyed: TriggerOutcome, after: Reactivation) -> list[str]:
        return [check.name for check in checks(accuracy, [obeyed], after, str) if check.passed is False]

    assert failed(fine, gone, asleep) == []
    assert failed(worse, gone, asleep) == ["clean accuracy"]
    assert failed(fine, moved, asleep) == ["fresh search"]
    assert failed(fine, gone, woken) == ["re-tuning", "small push"]
