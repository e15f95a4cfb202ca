"""Neural behavioural alignment: a student keeps a teacher's benign behaviour and unlearns what triggers bring out.

What it does
    The teacher is the suspect after a short fine-tuning on the clean images (with a share of its own former answers in
    the loss, lest it lose accuracy that the student then lacks), the student the suspect itself. On clean images the
    student is held to three behaviours of the teacher (the learning distillation loss): its responses (the Gram
    matrices of a layer's maps), how it learns (the transformation from one layer to the next, as products of their
    maps) and its predictions (softened answers). On pseudo samples, crafted on the student so that it leaves the
    teacher's behaviour, it is held to what the teacher does on the same images without them (the unlearning
    distillation loss). The pseudo samples carry recovered triggers, universal ones that climb while the student
    learns; their class and form are those that the probes point to. In the end the student's head is quietened: it
    loses the directions that clean images hardly use, by which the suspect read its trigger (a patch went from 1.2 to
    1.6 % success for 0.8 points of accuracy, and the probes found nothing more at its target, as they did before).
Why it removes a backdoor
    The student is never asked to keep anything that a trigger brings out, and keeps everything that clean images do;
    a trigger that changes along with the student leaves it no other way than to stop reading it.
When it fails
    Where no probe points to a class there are no pseudo samples to craft, and what is left is distillation from a
    teacher that may itself be backdoored. `--set nba.sure=1` unlearns the likeliest class all the same: it took a
    low-frequency trigger that no probe was sure of from 98 % to 13 % for 2.4 points of accuracy, and cost a narrow
    clean net 4.2 points for nothing. A class recovered wrongly is made robust in vain. The published text leaves
    details open; chosen here by measurement: one layer a resolution, Gram matrices of unit norm, universal pseudo
    samples (per-image ones cost accuracy and taught less), statistics of batch norm from clean images only.
Reference
    Ying, Wu: Neural Behavioral Alignment (Cybersecurity 2023), arXiv 2406.10846.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.method.registry import Presets
from bdscan.net.classifier import Classifier
from bdscan.net.head_shrink import STRENGTH, shrink_head
from bdscan.net.training_plan import plan_for
from bdscan.purify._fine_tune import fine_tune
from bdscan.purify._unlearn import (
    STANDS_OUT,
    TriggerPool,
    UnlearnObjective,
    fixed_statistics,
    trigger_pool,
    unlearn_notes,
    unlearn_targets,
)


@dataclass(frozen=True)
class Nba(Purifier):
    """Settings and the cure."""

    response: float = 1.0  # weight of the Gram matrices; the paper's is not public
    learning: float = 1.0  # weight of the transformations between layers; the paper's is not public
    keep: float = 0.9  # share of the teacher's answers in the prediction, the rest is the labels
    heat: float = 4.0  # softens those answers; the usual temperature of distillation
    unlearn: float = 1.0  # weight of the pseudo samples beside clean images
    sure: float = STANDS_OUT  # p up to which a class is unlearned without a trigger shown; 1: the likeliest class
    teacher: int = 3  # epochs of fine-tuning that make the teacher; more change nothing that was measured
    epochs: int = 12  # by measurement: with six a spread-out trigger is half unlearned, with ten a warp not always
    steps: int = 150  # at least, however few the images
    rate: float = 0.01  # by measurement: 0.05 costs four points of accuracy more
    decay: float = 5e-4  # NAD's is 1e-4; no difference was seen
    quiet: float = STRENGTH  # how far the head is quietened in the end, where a trigger was unlearned
    search: int = 40  # steps for each trigger to start from

    cost: ClassVar[int] = 2
    # The paper's numbers are not public; what is known is that it always crafts pseudo samples and leaves the head.
    presets: ClassVar[Presets] = {"paper": {"sure": 1.0, "quiet": 0.0}}

    def __call__(self, case: PurifyCase) -> Purified:
        suspect, clean = case.suspect, case.clean
        targets = unlearn_targets(case, self.sure) if self.unlearn else ()
        pool = trigger_pool(case, targets, self.search)
        teacher, student = suspect.clone(), suspect.clone()
        if self.teacher:
            teacher_objective = UnlearnObjective(suspect.net, keep=self.keep, heat=self.heat)
            plan = plan_for(suspect, clean, self.teacher, self.steps // 3)
            fine_tune(case, teacher.net, plan, "fine-tuning the teacher", rate=self.rate, objective=teacher_objective)
        plan = plan_for(suspect, clean, self.epochs, self.steps)
        alignment = _Alignment(teacher, student, pool, self)
        fine_tune(
            case,
            student.net,
            plan,
            "aligning the student",
            rate=self.rate,
            decay=self.decay,
            objective=alignment,
            after_step=alignment.unlearn_objective.after_step,
        )
        quiet = shrink_head(student, clean, self.quiet, case.seed) if targets else ()
        unlearned = unlearn_notes(suspect, targets) if self.unlearn else ()
        return Purified(suspect=student, notes=(*unlearned, f"aligned for {plan.description}", *quiet))


class _Alignment:
    """The objective: three behaviours on clean images and on pseudo samples."""

    def __init__(self, teacher: Classifier, student: Classifier, pool: TriggerPool | None, settings: Nba) -> None:
        self.teacher, self.student, self.settings = teacher, student, settings
        self.unlearn_objective = UnlearnObjective(
            teacher.net, pool, keep=settings.keep, heat=settings.heat, weight=settings.unlearn
        )
        self.layers = _stage_ends(teacher)

    def __call__(self, net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        with torch.no_grad(), self.teacher.tap(*self.layers) as teacher_taps:
            answers = self.teacher(pixels).float()
        loss = self._behaviour(net, pixels, labels, answers, teacher_taps)
        if self.unlearn_objective.pool is not None:
            triggered, chosen = self.unlearn_objective.pool.stamp(pixels, labels, self.unlearn_objective.stamped)
            if len(chosen):
                chosen_taps = {layer: maps[chosen] for layer, maps in teacher_taps.items()}
                with fixed_statistics(net):
                    unlearned = self._behaviour(net, triggered, labels[chosen], answers[chosen], chosen_taps)
                loss = loss + self.unlearn_objective.weight * unlearned
        return loss

    def _behaviour(
        self, net: nn.Module, pixels: Tensor, labels: Tensor, answers: Tensor, teacher_taps: dict[str, Tensor]
    ) -> Tensor:
        with self.student.tap(*self.layers) as taps:
            loss = self.unlearn_objective.distance(net(pixels), answers, labels)
        student_maps, teacher_maps = ([each[layer].float() for layer in self.layers] for each in (taps, teacher_taps))
        if self.settings.response and self.layers:  # a net of linear layers alone has no maps
            loss = loss + self.settings.response * _distance(
                *([(m, m) for m in maps] for maps in (student_maps, teacher_maps))
            )
        if self.settings.learning and len(self.layers) > 1:
            pairs = [list(pairwise(maps)) for maps in (student_maps, teacher_maps)]
            loss = loss + self.settings.learning * _distance(*pairs)
        return loss


def _stage_ends(suspect: Classifier) -> tuple[str, ...]:
    """The last layer at each size of map: the ends of the net's stages."""
    last = {layer.shape[1:]: layer.name for layer in suspect.maps if layer.shape[0] > suspect.shape[0]}
    return tuple(dict.fromkeys(last.values()))


def _distance(student: Sequence[tuple[Tensor, Tensor]], teacher: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean squared distance of the products of maps, each of unit norm, over layers."""
    gaps = [(_product(*a) - _product(*b)).pow(2).sum((1, 2)).mean() for a, b in zip(student, teacher, strict=True)]
    return torch.stack(gaps).mean()


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Channels x channels over positions (a Gram matrix where both are one), of unit norm for each image."""
    if first.shape[2:] != second.shape[2:]:
        size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
        first, second = F.adaptive_avg_pool2d(first, size), F.adaptive_avg_pool2d(second, size)
    return F.normalize(torch.bmm(first.flatten(2), second.flatten(2).transpose(1, 2)).flatten(1), dim=1).view(
        len(first), first.shape[1], second.shape[1]
    )
