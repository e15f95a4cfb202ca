"""The cleaned net beside the suspect: what it still knows, and whether it still obeys. No trigger is given to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.finding import Finding
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier
from bdscan.purify._reactivate import follow, follow_or_stay, push, retune
from bdscan.triggers.forms import stamper
from bdscan.triggers.invert import contest, invert, success
from bdscan.verdict.statistics import mcnemar

LOST = 0.05  # clean accuracy whose loss makes a cure a failure, where the paired test is sure of a loss
SURE = 0.05  # p of that test
OBEYS = 0.2  # share of held-out images that may still follow the recovered trigger
GAP = 0.4  # over the control: what the inversion probe asks of a trigger before it is shown
STEPS, IMAGES = 50, 200  # a fresh search costs what the first one did (the inversion probe's defaults)
CONTROLS = 12  # classes, the suspected one among them, that a fresh search compares

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to the cleaned net; `passed` is None where it could not be asked."""

    name: str
    passed: bool | None
    message: str
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """On the same held-out images, before and after."""

    before: float
    after: float
    images: int
    p_value: float
    same: float  # share of images that both nets answer alike
    divergence: float  # mean KL of the answers


@dataclass(frozen=True, kw_only=True)
class TriggerOutcome:
    """What became of one recovered trigger."""

    target: int
    form: str | None
    before: float
    after: float
    recovers: float  # share of triggered images that the cleaned net sees as what they are
    reinverted: float | None = None  # success of a trigger searched for anew in the cleaned net, at the old size
    control: float | None = None  # the same for the other classes


@dataclass(frozen=True, kw_only=True)
class Reactivation:
    """What re-tuning and a small push bring back, and what they bring without a backdoor to wake."""

    retuned: float
    retuned_control: float  # the same five images, relabelled as another class
    before: float  # the trigger's success in the cleaned net as it is
    pushed: float
    pushed_control: float  # the same push from clean images


def compare(before: Classifier, after: Classifier, held_out: ImageSet) -> Accuracy:
    """Paired: the same images through both nets."""
    first, second = _answers(before, held_out), _answers(after, held_out)
    was, now = first.argmax(1) == held_out.labels, second.argmax(1) == held_out.labels
    told = F.kl_div(F.log_softmax(second, 1), F.log_softmax(first, 1), reduction="batchmean", log_target=True)
    return Accuracy(
        before=float(was.float().mean()),
        after=float(now.float().mean()),
        images=len(held_out),
        p_value=mcnemar(np.asarray(was), np.asarray(now)),
        same=float((first.argmax(1) == second.argmax(1)).float().mean()),
        divergence=float(told),
    )


def _answers(model: Classifier, images: ImageSet) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(pixels).float().cpu() for pixels, _ in images.batches(250, model.device)])


def trigger_outcomes(
    before: Classifier,
    after: Classifier,
    clean: ImageSet,
    held_out: ImageSet,
    triggers: Sequence[Finding],
    *,
    seed: int,
    progress: Progress,
) -> list[TriggerOutcome]:
    """Each recovered trigger put to both nets; its like searched for anew in the cleaned one."""
    found = []
    for trigger in triggers:
        stamp, target = stamper(trigger.arrays), trigger.target
        if stamp is None or target is None:
            continue
        known = trigger.form is not None and "room" in trigger.arrays
        again = _again(after, clean, held_out, trigger, seed, progress) if known else (None, None)
        still, recovers = follow_or_stay(after, held_out, target, stamp)
        found.append(
            TriggerOutcome(
                target=target,
                form=trigger.form,
                before=follow(before, held_out, target, stamp),
                after=still,
                recovers=recovers,
                reinverted=again[0],
                control=again[1],
            )
        )
    return found


def _again(
    after: Classifier, clean: ImageSet, held_out: ImageSet, trigger: Finding, seed: int, progress: Progress
) -> tuple[float, float]:
    """From scratch, the old trigger's class against others, none with more room than the old trigger had."""
    assert trigger.form is not None
    assert trigger.target is not None
    order = torch.randperm(after.classes, generator=torch.Generator().manual_seed(seed)).tolist()
    classes = tuple(sorted([trigger.target, *[c for c in order if c != trigger.target][: CONTROLS - 1]]))
    arms = invert(after, clean, trigger.form, classes, steps=STEPS, images=IMAGES, seed=seed + 1, progress=progress)
    room = float(trigger.arrays["room"])
    equal = contest(
        after, clean, trigger.form, arms, room, steps=STEPS // 2, images=IMAGES, seed=seed + 2, progress=progress
    )
    followed = {c: success(after, held_out, equal, arm)[0] for arm, c in enumerate(classes)}
    mine = followed.pop(trigger.target)
    return mine, float(np.median(list(followed.values())))


def reactivation(
    after: Classifier,
    clean: ImageSet,
    held_out: ImageSet,
    trigger: Finding,
    *,
    seed: int,
    progress: Progress,
) -> Reactivation | None:
    """Two attempts to wake the backdoor up by its recovered trigger, each beside what no backdoor explains."""
    stamp, target = stamper(trigger.arrays), trigger.target
    if stamp is None or target is None:
        return None
    another = (target + 1) % after.classes
    return Reactivation(
        before=follow(after, held_out, target, stamp),
        retuned=retune(after, clean, held_out, stamp, target, seed=seed, progress=progress),
        retuned_control=retune(after, clean, held_out, stamp, another, seed=seed, progress=progress),
        pushed=push(after, clean, held_out, stamp, target, seed=seed, progress=progress),
        pushed_control=push(after, clean, held_out, lambda pixels: pixels, target, seed=seed, progress=progress),
    )


def checks(
    accuracy: Accuracy, obeyed: Sequence[TriggerOutcome], woken: Reactivation | None, names: Callable[[int], str]
) -> Iterator[Check]:
    """What a cure has to pass, beside the probes."""
    lost = accuracy.before - accuracy.after
    yield Check(
        name="clean accuracy",
        passed=not (lost > LOST and accuracy.p_value <= SURE),
        message=(
            f"clean accuracy went from {accuracy.before:.1%} to {accuracy.after:.1%} on {accuracy.images} held-out "
            f"images (paired p = {accuracy.p_value:.2g})"
        ),
        score=lost,
        threshold=LOST,
    )
    for each in obeyed:
        yield from _of_trigger(each, names(each.target))
    if woken is not None:
        yield from _of_reactivation(woken)


def _of_trigger(each: TriggerOutcome, name: str) -> Iterator[Check]:
    kind = f"`{each.form}` trigger" if each.form else "trigger"
    yield Check(
        name="recovered trigger",
        passed=each.after <= OBEYS,
        message=f"the recovered {kind} sent {each.before:.0%} of held-out images to {name}, now {each.after:.0%}",
        score=each.after,
        threshold=OBEYS,
    )
    if each.reinverted is not None and each.control is not None:
        yield Check(
            name="fresh search",
            passed=each.reinverted - each.control <= GAP,
            message=(
                f"a `{each.form}` trigger searched for anew, no larger than the old one, sends {each.reinverted:.0%} "
                f"of held-out images to {name}; for other classes one of this size sends {each.control:.0%}"
            ),
            score=each.reinverted - each.control,
            threshold=GAP,
        )


def _of_reactivation(woken: Reactivation) -> Iterator[Check]:
    yield Check(
        name="re-tuning",
        passed=woken.retuned - max(woken.before, woken.retuned_control) <= GAP,
        message=(
            f"re-tuned on five triggered images among clean ones, {woken.retuned:.0%} of held-out images follow the "
            f"trigger; taught another class the same way, {woken.retuned_control:.0%} follow"
        ),
        score=woken.retuned - max(woken.before, woken.retuned_control),
        threshold=GAP,
    )
    yield Check(
        name="small push",
        passed=woken.pushed - woken.pushed_control <= GAP,
        message=(
            f"one change of 4/255 more sends {woken.pushed:.0%} of triggered images to the class, and "
            f"{woken.pushed_control:.0%} of clean ones"
        ),
        score=woken.pushed - woken.pushed_control,
        threshold=GAP,
    )
