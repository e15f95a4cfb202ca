"""Feature shift tuning: a new head, pushed away from the old one, and features that have to follow it.

What it does
    Gives the head new random weights and trains the whole net on clean images with an extra loss, alpha times the
    inner product of the new head weight and the suspect's, while the weight's norm is held at its old value. To this,
    the published method, two things are added: a share of the loss asks for the suspect's own softened answers on
    clean images, and triggers that probes recovered are put on images and have to be answered as if they were not
    there; the triggers change along with the net, so that it cannot merely dodge them. `--preset paper` leaves both
    out.
Why it removes a backdoor
    The head reads the backdoor's features in a direction of its own. A head that may not lie along the old one makes
    the features move, and what clean images do not ask for does not move along. A narrow head has few directions to
    spare and pays with accuracy, which the suspect's clean answers buy back; they would buy the backdoor back too if
    the recovered triggers were not unlearned at the same time.
When it fails
    Without the two additions it costs narrow nets 6 to 15 points of accuracy. With the suspect's answers and without a
    recovered trigger a blended backdoor survives. Low success can be superficial: re-tuning on a few triggered images
    may wake the backdoor up, which the report tries.
Reference
    Min, Qin, Shen, Cheng: Towards Stable Backdoor Purification through Feature Shift Tuning (NeurIPS 2023),
    arXiv 2310.01875.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.method.registry import Presets
from bdscan.net.classifier import Classifier, parameters_of
from bdscan.net.training_plan import plan_for
from bdscan.purify._fine_tune import fine_tune
from bdscan.purify._unlearn import STANDS_OUT, UnlearnObjective, trigger_pool, unlearn_notes, unlearn_targets


@dataclass(frozen=True)
class Fst(Purifier):
    """Settings and the cure: first the paper's own, then how long and fast it trains, then the two additions."""

    alpha: float = 0.0  # weight of the shift; 0: by rule, so that turning by a right angle is worth `turn` nats
    turn: float = 1.0  # in that rule, times 10 / classes: the authors take 0.1 or 0.2 on ten classes, 0.001 on 100

    epochs: int = 10  # the authors' command
    steps: int = 150  # at least: with few images ten epochs do not train a head
    rate: float = 0.02  # the authors' is 0.01; 0.05 costs three points of accuracy on narrow nets
    decay: float = 5e-4  # as in training; the authors have none; the head's norm is held either way
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"  # the authors' is cosine

    keep: float = 0.9  # share of the suspect's own answers in the loss, the rest is the labels
    heat: float = 4.0  # softens those answers; the usual temperature of distillation
    unlearn: float = 1.0  # weight of images with recovered triggers beside clean ones
    sure: float = STANDS_OUT  # p up to which a class is unlearned without a trigger shown; 1: the likeliest class
    search: int = 40  # steps for each recovered trigger to start from

    cost: ClassVar[int] = 4
    presets: ClassVar[Presets] = {  # the authors' command for CIFAR-10, which has neither of the two additions
        "paper": {
            "alpha": 0.1,
            "keep": 0.0,
            "unlearn": 0.0,
            "epochs": 10,
            "steps": 0,
            "rate": 0.01,
            "decay": 0.0,
            "schedule": "cosine",
        }
    }

    def __call__(self, case: PurifyCase) -> Purified:
        suspect, clean = case.suspect, case.clean
        targets = unlearn_targets(case, self.sure) if self.unlearn else ()
        pool = trigger_pool(case, targets, self.search)
        task = UnlearnObjective(suspect.net, pool, keep=self.keep, heat=self.heat, weight=self.unlearn)
        cleaned = suspect.clone()
        head = _ShiftedHead(cleaned, case.seed)
        alpha = self.alpha or self._alpha_by_rule(suspect)
        plan = plan_for(suspect, clean, self.epochs, self.steps)

        def loss(net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
            return task(net, pixels, labels, index) + alpha * head.product()  # with keep=0, unlearn=0: the paper's

        def after_step(net: nn.Module) -> None:
            head.restore_norm()
            task.after_step(net)

        fine_tune(
            case,
            cleaned.net,
            plan,
            "feature shift tuning",
            rate=self.rate,
            decay=self.decay,
            schedule=self.schedule,
            objective=loss,
            after_step=after_step,
        )
        made_anew = f"the head was made anew (alpha {alpha:.3g}); its cosine to the old one is {head.cosine():.2f}"
        unlearned = unlearn_notes(suspect, targets) if self.unlearn else ()
        return Purified(suspect=cleaned, notes=(made_anew, *unlearned, f"trained {plan.description}"))

    def _alpha_by_rule(self, suspect: Classifier) -> float:
        """The inner product grows with the square of the head's norm, which differs tenfold between nets."""
        return self.turn * min(1.0, 10 / suspect.classes) / float(suspect.head_weight.norm()) ** 2


class _ShiftedHead:
    """A head with new random weights, the weight it had before, and that weight's norm, which is held."""

    def __init__(self, cleaned: Classifier, seed: int) -> None:
        weight, bias = parameters_of(cleaned.module(cleaned.head))
        self.weight = weight
        self.original = weight.detach().clone()
        self.norm = float(self.original.norm())
        reach = 1 / math.sqrt(weight[0].numel())  # as PyTorch initialises a linear layer
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in (weight, bias):
                if tensor is not None:
                    tensor.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * reach)
        self.restore_norm()

    def product(self) -> Tensor:
        """The inner product of the new weight and the old."""
        return (self.weight * self.original).sum()

    def restore_norm(self) -> None:
        with torch.no_grad():
            self.weight.mul_(self.norm / self.weight.norm().clamp(min=1e-12))

    def cosine(self) -> float:
        return float(self.product().detach()) / self.norm**2
