"""Plain fine-tuning on the clean images: the baseline that every purifier has to beat.

What it does
    Trains all weights on the clean images with cross-entropy, nothing else.
Why it removes a backdoor
    It does so only where backdoor and clean features share few weights: what clean images never ask for is slowly
    overwritten. BackdoorBench leaves 32 % of triggered images with the attacker at 10 % poison and 75 % at 1 %.
When it fails
    Low poison rates, blended and low-frequency triggers, small learning rates. Use it to compare, not to deploy.
Reference
    Liu, Dolan-Gavitt, Garg: Fine-Pruning (RAID 2018), the fine-tuning part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bdscan.method.case import PurifyCase
from bdscan.method.purifier import Purified, Purifier
from bdscan.method.registry import Presets
from bdscan.net.training_plan import plan_for
from bdscan.purify._fine_tune import fine_tune


@dataclass(frozen=True)
class Finetune(Purifier):
    """Settings and the cure."""

    epochs: int = 10  # BackdoorBench takes 100 of its 2,500 images, FST's authors 10; after 10 little moves
    steps: int = 120  # at least: with few images ten epochs are no training
    rate: float = 0.01  # BackdoorBench's and FST's
    decay: float = 5e-4  # BackdoorBench's

    cost: ClassVar[int] = 1
    baseline: ClassVar[bool] = True
    # BackdoorBench's.
    presets: ClassVar[Presets] = {"paper": {"epochs": 100, "steps": 0, "rate": 0.01, "decay": 0.0005}}

    def __call__(self, case: PurifyCase) -> Purified:
        plan = plan_for(case.suspect, case.clean, self.epochs, self.steps)
        cleaned = case.suspect.clone()
        fine_tune(case, cleaned.net, plan, "fine-tuning", rate=self.rate, decay=self.decay)
        return Purified(suspect=cleaned, notes=(f"fine-tuned for {plan.description}",))
