"""Neural polarizer: linear layers learned to filter the trigger out of the maps, then folded into the net's weights.

What it does
    Puts a linear layer over the channels (a 1x1 convolution, at first the identity) behind convolutions of the net,
    and trains these plugs and nothing else. Clean images have to be answered as the suspect answers them, attacked
    ones as well. What attacks is kept alive against the plugs: triggers that probes recovered climb along with the
    net. Where no trigger was shown, images are attacked one by one, each moved towards its second class within a
    ball in pixel space, and the class aimed at and the likeliest wrong one are pushed down besides.
    Batch norms measure their statistics anew, since they see something new. In the end each plug is multiplied into
    the convolution before it, which is exact, so the cleaned net has no layer that the suspect did not have. Where a
    trigger was unlearned, the head is quietened: it loses what clean images do not use.
    The published method (`--preset paper`) has one plug, near the end, and only the attack one by one; its plug stands
    before the convolution, has a batch norm of its own and needs a warm-up for that, which no setting here has.
Why it removes a backdoor
    What a trigger raises in the maps lies in few directions that clean images hardly use. A mixing of the channels
    can turn those away and let the rest through, and has too few weights to forget what few images do not show.
When it fails
    Where no probe recovered a trigger. The attack one by one, even at twice its weight, does not lead to a patch (one
    still worked on every image) and hardly to a low-frequency trigger (98 % to 93 %). To a blend it leads half-way
    (98 % to 61 %; to 5 % with `attacked=0.2 rate=0.01`, but twice the weight costs a clean net two points, not one).
    With a recovered trigger 2 to 5 % are left, at 0.3 to 1.8 points of accuracy with 2,500 images, 1.4 to 2.6 with 500.
    One plug is too few on a narrow net: as published, but for 20 epochs on 500 images, it took a patch from 100 % to
    92 % and a blend from 98 % to 34 %, and cost 3 and 7 points.
Reference
    Zhu, Wei, Zha, Wu: Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned Features
    (NeurIPS 2023), arXiv 2306.16697.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.problem import Problem
from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.method.registry import Presets
from bdscan.net.classifier import Classifier, parameters_of
from bdscan.net.fit import fit
from bdscan.net.fold import MixedNet, foldable_layers
from bdscan.net.head_shrink import STRENGTH, shrink_head
from bdscan.net.training_plan import plan_for
from bdscan.purify._unlearn import (
    STANDS_OUT,
    UnlearnObjective,
    UnlearnTarget,
    Why,
    fixed_statistics,
    trigger_pool,
    unlearn_notes,
    unlearn_targets,
)

ATTACK_STEP = 0.1  # a step of the attack, in pixels: the authors'
LOG_OFFSET = 1.0001  # the authors': the logarithm stays finite where the net is sure of a wrong class
CIFAR_NUMBERS = 3 * 32 * 32  # numbers in an image of the size that `reach` is given for


@dataclass(frozen=True)
class Polarizer(Purifier):
    """Settings and the cure."""

    where: Literal["all", "stage", "one"] = "all"  # layers with a plug: the last stage's, or the last but one
    keep: float = 0.9  # share of the suspect's own answers in the loss, the rest is the labels
    heat: float = 4.0  # softens those answers; the usual temperature of distillation
    unlearn: float = 1.0  # weight of images with recovered triggers beside clean ones
    sure: float = STANDS_OUT  # p up to which a class is unlearned without a trigger shown; 1: the likeliest class
    attacked: float = 0.1  # weight of images attacked one by one, where no trigger was shown; the authors' is 0.4
    reach: float = 1.0  # l2 norm of that attack on 3x32x32 pixels, grown with larger ones; the authors' is 3
    hops: int = 2  # steps of that attack; the authors'
    stamped: int = 32  # images of a batch that are attacked, either way; the authors attack the whole batch
    measure: bool = True  # batch norms measure their statistics anew
    epochs: int = 6  # the authors' 50 are for one plug; with many, six reach as far
    steps: int = 120  # at least: with few images six epochs are no training
    rate: float = 0.005  # the authors train one layer with 0.01; half of it keeps more accuracy with 500 images
    decay: float = 5e-4  # the authors', but towards the identity
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"  # the authors' is constant
    quiet: float = STRENGTH  # how far the head is quietened in the end, where a trigger was unlearned
    search: int = 40  # steps for each recovered trigger to start from

    cost: ClassVar[int] = 2
    presets: ClassVar[Presets] = {  # the authors' code for CIFAR-10
        "paper": {
            "where": "one",
            "keep": 0.0,
            "unlearn": 0.0,
            "attacked": 0.4,
            "reach": 3.0,
            "hops": 2,
            "stamped": 128,
            "measure": False,
            "epochs": 50,
            "steps": 0,
            "rate": 0.01,
            "decay": 0.0005,
            "schedule": "constant",
            "quiet": 0.0,
        }
    }

    def __call__(self, case: PurifyCase) -> Purified:
        suspect = case.suspect
        chosen = self._choose(suspect)
        targets = unlearn_targets(case, self.sure) if self.unlearn else ()
        cleaned = suspect.clone()
        mixed = MixedNet(cleaned, chosen, measure=self.measure)
        trained = self._train(case, mixed, targets)
        mixed.fold()
        _check_finite(cleaned)
        quiet = shrink_head(cleaned, case.clean, self.quiet, case.seed) if targets else ()
        unlearned = unlearn_notes(suspect, targets) if self.unlearn else ()
        return Purified(suspect=cleaned, notes=(_plug_note(chosen), *unlearned, trained, *quiet))

    def _train(self, case: PurifyCase, mixed: MixedNet, targets: tuple[UnlearnTarget, ...]) -> str:
        """Both levels, step by step; says for how long and against what."""
        suspect, clean = case.suspect, case.clean
        pool = trigger_pool(case, targets, self.search)
        unlearn_objective = UnlearnObjective(
            suspect.net, pool, keep=self.keep, heat=self.heat, weight=self.unlearn, stamped=self.stamped
        )
        weight = 0.0 if any(target.why is Why.SHOWN for target in targets) else self.attacked

        def objective(net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
            loss = unlearn_objective(net, pixels, labels, index)
            few = slice(self.stamped)
            return loss + weight * self._adversarial_loss(net, pixels[few], labels[few]) if weight else loss

        plan = plan_for(suspect, clean, self.epochs, self.steps)
        fit(
            mixed,
            clean.images,
            clean.labels,
            epochs=plan.epochs,
            batch=plan.batch,
            augment=plan.augment,
            rate=self.rate,
            decay=self.decay,
            schedule=self.schedule,
            seed=case.seed,
            objective=objective,
            after_step=unlearn_objective.after_step,
            progress=lambda done, total: case.progress(done, total, "polarizing"),
        )
        return f"trained {plan.description}" + (", some of them attacked one by one" if weight else "")

    def _choose(self, suspect: Classifier) -> tuple[str, ...]:
        candidates = foldable_layers(suspect)
        if not candidates:
            raise Problem(
                "`polarizer` needs a convolution to fold its layers into, and this net has none that could take one",
                hint="`fst` works on any net",
            )
        if self.where == "all":
            return candidates
        if self.where == "one":
            return candidates[-2:][:1]
        return tuple(name for name in candidates if _spread(suspect, name) == _spread(suspect, candidates[-1]))

    def _adversarial_loss(self, net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """The outer loss on images that the inner problem has moved towards their second class."""
        net.eval()
        with torch.no_grad():
            aim = net(pixels).float().scatter(1, labels[:, None], -math.inf).argmax(1)
        moved = self._attack(net, pixels, aim)
        net.train()
        with fixed_statistics(net):
            logits = net(moved).float()
        shares = logits.softmax(1)
        wrong = shares.scatter(1, labels[:, None], 0).amax(1)
        aimed = shares.gather(1, aim[:, None])[:, 0]
        boosted = torch.log(LOG_OFFSET - wrong) + torch.log(LOG_OFFSET - aimed)
        return F.cross_entropy(logits, labels) - boosted.mean()

    def _attack(self, net: nn.Module, pixels: Tensor, aim: Tensor) -> Tensor:
        """The inner problem: the nearest images, in a ball of pixel space, that the net takes for `aim`."""
        reach = self.reach * math.sqrt(pixels[0].numel() / CIFAR_NUMBERS)
        change = torch.zeros_like(pixels)
        for _ in range(self.hops):
            change.requires_grad_(True)
            loss = F.cross_entropy(net((pixels + change).clamp(0, 1)).float(), aim)
            (slope,) = torch.autograd.grad(loss, change)
            change = change.detach() - ATTACK_STEP * slope.sign()
            length = change.flatten(1).norm(dim=1).clamp(min=1e-12)
            change = change * (reach / length).clamp(max=1).view(-1, 1, 1, 1)
        return (pixels + change).clamp(0, 1)


def _spread(suspect: Classifier, name: str) -> int:
    """Over how many positions the layer last ran."""
    shape = {layer.name: layer.shape for layer in suspect.layers}[name]
    return math.prod(shape) // len(parameters_of(suspect.module(name))[0])


def _check_finite(cleaned: Classifier) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in cleaned.net.state_dict().values()):
        raise Problem("the layers of `polarizer` ran away in training", hint="try `--set polarizer.rate=0.003`")


def _plug_note(chosen: tuple[str, ...]) -> str:
    if len(chosen) == 1:
        return f"a linear layer was learned behind `{chosen[0]}` and folded into it exactly"
    several = f"linear layers were learned behind {len(chosen)} convolutions, `{chosen[0]}` to `{chosen[-1]}`"
    return f"{several}, and folded into them exactly"
