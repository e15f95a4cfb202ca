"""Unlearning: recovered triggers, kept alive against a net that learns to answer them as if they were not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.evidence import RecoveredTrigger
from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet
from bdscan.method.case import PurifyCase
from bdscan.net.classifier import Classifier
from bdscan.triggers.forms import Stamp, stamper
from bdscan.triggers.invert import Arms, invert

STANDS_OUT = 0.05  # p over all classes; to unlearn the likeliest class of a narrow clean net cost it four points
MAX_GROWTH = 1.8  # times its smallest size a trigger may grow to; with 1.2 an eighth of a warp's victims still followed
RATE_SHARE = 1 / 3  # of inversion's rate: a trigger follows the net, it need not be found
GENERAL_FORMS = ("patch", "smooth", "warp")  # where no form was shown: local, global, and moved pixels
LISTED = "listed"  # in the place of a form
COPIES = 3  # of each trigger, from different starts
IMAGES_A_COPY = 16  # a copy, in each step of its search


class Why(StrEnum):
    """What speaks for a suspicion, as the report says it."""

    SHOWN = ""
    STANDS_OUT = ", the class that stands out"
    LIKELIEST = ", the likeliest class though none stands out"


@dataclass(frozen=True)
class UnlearnTarget:
    """A class, and the form of trigger that leads to it."""

    form: str
    target: int
    why: Why = Why.SHOWN
    room: float = 0.0  # of the trigger that was shown: a cure has to withstand that one at least
    stamp: Stamp | None = None  # a trigger off a list, which belongs to no form and is unlearned as it is


def unlearn_targets(case: PurifyCase, sure: float = STANDS_OUT) -> tuple[UnlearnTarget, ...]:
    """What to unlearn: triggers that probes showed, else the likeliest class in general forms, if its p is so low."""
    shown = [
        (f.target, f.trigger) for run in case.runs for f in run.findings if f.demonstrated and f.target is not None
    ]
    targets = _of_triggers([(target, trigger) for target, trigger in shown if trigger is not None])
    bare = {target for target, _ in shown} - {each.target for each in targets}
    others = dict.fromkeys(bare, Why.STANDS_OUT) if shown else dict(_likeliest(case, sure))
    return (
        *targets,
        *(UnlearnTarget(form, target, why) for target, why in sorted(others.items()) for form in GENERAL_FORMS),
    )


def _of_triggers(shown: Sequence[tuple[int, RecoveredTrigger]]) -> list[UnlearnTarget]:
    """One of each form and class, with the room of the largest; those that belong to no form as they are."""
    rooms: dict[tuple[str, int], float] = {}
    for target, trigger in shown:
        if trigger.form:
            key = trigger.form, target
            rooms[key] = max(trigger.room or 0.0, rooms.get(key, 0.0))
    return [
        *(UnlearnTarget(form, target, room=room) for (form, target), room in rooms.items()),
        *(UnlearnTarget(LISTED, target, stamp=stamper(each.pixels)) for target, each in shown if not each.form),
    ]


def _likeliest(case: PurifyCase, sure: float) -> Iterator[tuple[int, Why]]:
    joint = case.joint()
    if joint is not None and joint.over_all <= sure:
        yield joint.target, Why.STANDS_OUT if joint.over_all <= STANDS_OUT else Why.LIKELIEST


def unlearn_notes(suspect: Classifier, wanted: Sequence[UnlearnTarget]) -> tuple[str, ...]:
    """What was unlearned, as the report says it."""
    if not wanted:
        return ("no probe pointed to a class, so no trigger was unlearned",)
    forms: dict[tuple[int, Why], list[str]] = {}
    for one in wanted:
        forms.setdefault((one.target, one.why), []).append(f"`{one.form}`")
    return tuple(
        f"unlearned {', '.join(names)} triggers for {suspect.name(target)}{why}"
        for (target, why), names in forms.items()
    )


class TriggerPool:
    """Triggers as the net at hand sees them: they start from inversion and climb while the net unlearns."""

    def __init__(
        self,
        suspect: Classifier,
        clean: ImageSet,
        wanted: Sequence[UnlearnTarget],
        *,
        steps: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.turn = 0
        self.kinds = [
            _Kind(
                invert(
                    suspect,
                    clean,
                    one.form,
                    (one.target,) * COPIES,
                    steps=steps,
                    images=IMAGES_A_COPY * COPIES,
                    seed=seed,
                    progress=progress,
                ),
                one.room,
            )
            for one in wanted
            if one.stamp is None
        ]
        self.listed = [_Listed(one.target, one.stamp) for one in wanted if one.stamp is not None]

    def stamp(self, pixels: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """The next kind's triggers on images of other classes, and which images those are."""
        kind = self._kind
        chosen = (labels != kind.target).nonzero()[:most, 0]
        return kind.stamp(pixels[chosen], self.generator), chosen

    def climb(self) -> None:
        """One step of the triggers just used, against the gradient that the net has followed."""
        self._kind.climb()
        self.turn += 1

    @property
    def _kind(self) -> _Kind | _Listed:
        kinds: list[_Kind | _Listed] = [*self.kinds, *self.listed]
        return kinds[self.turn % len(kinds)]


def trigger_pool(case: PurifyCase, wanted: Sequence[UnlearnTarget], steps: int) -> TriggerPool | None:
    """Triggers to unlearn, where there is something to suspect."""
    if not wanted:
        return None
    return TriggerPool(case.suspect, case.clean, wanted, steps=steps, seed=case.seed, progress=case.progress)


@dataclass(frozen=True, eq=False)
class _Listed:
    """One trigger that stays as it is."""

    target: int
    change: Stamp

    def stamp(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return self.change(pixels)

    def climb(self) -> None:
        pass


class _Kind:
    """Some copies of one trigger, and how far they may grow."""

    def __init__(self, arms: Arms, room: float) -> None:
        self.target, self.form = arms.classes[0], arms.form
        smallest = float(arms.size[arms.reached].min() if arms.reached.any() else arms.size.min())
        self.room = max(MAX_GROWTH * smallest, room)
        self.form.limit(self.room)
        for parameter in self.form.parameters:
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.Adam(self.form.parameters, lr=RATE_SHARE * self.form.rate, betas=(0.5, 0.9))

    def stamp(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        copy = torch.randint(COPIES, (len(pixels),), generator=generator).to(pixels.device)
        return self.form.stamp(pixels, copy)

    def climb(self) -> None:
        for parameter in self.form.parameters:
            if parameter.grad is not None:
                parameter.grad.neg_()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.form.limit(self.room)


@dataclass(frozen=True)
class UnlearnObjective:
    """The objective: say of clean images what the teacher says, and say it of triggered ones too.

    A share `keep` of it is the teacher's softened answers (which keep the accuracy that few images cannot teach
    again), the rest the labels; `weight` is that of the triggered images beside the clean ones.
    """

    teacher: nn.Module
    pool: TriggerPool | None = None
    keep: float = 0.9
    heat: float = 4.0
    weight: float = 1.0
    stamped: int = 32  # images a step

    def __call__(self, net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        teacher_logits = self.teacher_logits(pixels)
        loss = self.distance(net(pixels), teacher_logits, labels)
        if self.pool is not None:
            triggered, chosen = self.pool.stamp(pixels, labels, self.stamped)
            if len(chosen):
                with fixed_statistics(net):
                    loss = loss + self.weight * self.distance(net(triggered), teacher_logits[chosen], labels[chosen])
        return loss

    @torch.no_grad()
    def teacher_logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.teacher(pixels)
        return logits.float()

    def distance(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """How far these answers are from the teacher's and from the truth."""
        logits = logits.float()
        loss = (1 - self.keep) * F.cross_entropy(logits, labels)
        if self.keep:
            soft = F.softmax(teacher_logits / self.heat, 1)
            softly = F.kl_div(F.log_softmax(logits / self.heat, 1), soft, reduction="batchmean")
            loss = loss + self.keep * self.heat**2 * softly
        return loss

    def after_step(self, net: nn.Module) -> None:
        """The triggers answer the net's step with one of their own."""
        if self.pool is not None:
            self.pool.climb()


@contextmanager
def fixed_statistics(net: nn.Module) -> Iterator[None]:
    """What passes through now is normalised by its own batch, and leaves no trace in the running statistics:
    those are for clean images."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    usual = [m.momentum for m in norms]
    counted = [m.num_batches_tracked.clone() if m.num_batches_tracked is not None else None for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, usual, counted, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
