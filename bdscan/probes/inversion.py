"""Searches, for every class, the smallest trigger that sends all images to it.

What it measures
    Six forms of universal trigger (a patch, a patch that may stand anywhere, an added change, an added smooth change,
    added lines, a warp) are optimised for all classes at once, each as small as it can be made while 90 % of the
    images of the other classes follow. The score of a class is minus the log of its trigger's size (the largest of
    all where it never succeeded), cut at 1.5 times the median. With many classes the less promising half is
    dropped again and again, so that a hundred cost little more than ten. Beside it, one trigger is sought under which
    every class becomes a class of its own (all-to-all). What stands out is then contested: the
    classes get triggers of one and the same size, and all are measured on images that no trigger was made from.

Why it shows a backdoor
    An attacker's trigger is a short cut: it needs far less room than what nature offers. The classes that nobody
    prepared for need patches, noise or warps several times as large, or never follow at all.

When it misleads
    Clean nets have natural universal triggers too, hence the comparison with the other classes at equal size.
    One that beats the others is shown as evidence, and counts as proof only where its class stands out over all forms.
    A trigger that differs from image to image, or that works on one class only, is not universal in this sense.

Reference
    Wang et al., S&P 2019 (Neural Cleanse); Tao et al., CVPR 2022 (Pixel); Shen et al., ICML 2021 (K-Arm, for the
    scheduling); Smyth 2004 (moderated t). The warp, lines and smooth forms and the contest at equal size are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from bdscan.facts.evidence import Array, Measure, RecoveredTrigger
from bdscan.facts.finding import Finding, Level
from bdscan.facts.problem import USAGE, Problem
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.triggers.all_to_all import invert_all_to_all
from bdscan.triggers.forms import FORMS
from bdscan.triggers.invert import FEW, Arms, challenge, invert
from bdscan.verdict.calibration import p_height, p_values, score_at
from bdscan.verdict.comparison import Comparison, demonstration
from bdscan.verdict.statistics import holm

HARD = 1.5  # times the median size: classes harder than that do not tell how easy a class may be
MOST = 48  # classes that may enter; beyond it, those that earlier probes point to and as many drawn at random
FAST = ("patch", "smooth", "warp")  # local, spread out and geometric: each sees what the others do not
RELABEL = ("patch", "smooth")
VARIETY = 0.6  # different classes that the classes must become, as a share: natural changes end in one or two


@dataclass(frozen=True)
class Inversion(ImageProbe):
    """Universal triggers of six forms."""

    forms: str = "auto"  # patch, moving, additive, smooth, lines, warp; auto: all, or the first three of `FAST`
    relabel: str = "auto"  # forms under which every class may become another; auto: patch and smooth, none when fast
    steps: int = 50  # Neural Cleanse takes 1,000; within 50 the order of the classes is settled
    images: int = 200  # a step, shared by all classes
    contests: int = 2  # suspicions that are put to the test at equal size
    threshold: float = 0.05  # p, over all classes, below which a class is put to the test
    sure: float = 0.01  # p over all classes at which earlier probes' class is tested too; over all forms too: a proof
    follow: float = 0.8  # share of held-out images that must follow a shown trigger
    gap: float = 0.4  # by which it must beat the median of the other classes at equal size

    stage: ClassVar[Stage] = Stage.DEMONSTRATES
    family: ClassVar[str] = "inversion"
    statistics: ClassVar[tuple[str, ...]] = (
        *(f"inversion.{form}" for form in FORMS),
        *(f"relabelling.{form}" for form in RELABEL),
    )
    quick: ClassVar[bool] = True

    def for_self_check(self, form: str | None) -> Inversion:
        """The planted ones are universal; in the first look the form is known and need not be proved."""
        return replace(self, relabel="") if form is None else replace(self, forms=form, contests=0, relabel="")

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        fast = case.effort == "fast"
        forms = _named(self.forms, FAST if fast else tuple(FORMS))
        classes, controls = _entrants(case)
        arms_of: dict[str, Arms] = {}
        spreads: dict[str, Finding] = {}
        for turn, name in enumerate(forms):
            arms = invert(
                case.suspect,
                case.clean,
                name,
                classes,
                steps=self.steps,
                images=self.images,
                seed=case.seed,
                controls=controls,
                progress=partial(_within, case, turn, len(forms)),
            )
            arms_of[name], spreads[name] = arms, self._spread(case.suspect, name, arms)
            yield spreads[name]
        for name, target, proof in self._suspicions(spreads, _combined(case))[: self.contests]:
            yield self._contest(case, name, arms_of[name], target, proof)
        for name in _named(self.relabel, () if fast else tuple(form for form in RELABEL if form in arms_of)):
            yield from self._relabelling(case, name, arms_of[name])

    def _relabelling(self, case: ImageCase, name: str, arms: Arms) -> Iterator[Finding]:
        """All-to-all: one trigger, and a class of its own for every class."""
        found = invert_all_to_all(
            case.suspect,
            case.clean,
            case.held_out,
            name,
            steps=self.steps,
            images=self.images,
            seed=case.seed,
            progress=case.progress,
        )
        if found is None:
            yield Finding(level=Level.NOTE, message=f"no `{name}` trigger relabels every class")
            return
        usual = float(np.median(arms.size[arms.finished].numpy()))
        score = float(np.log(usual / found.size))
        various = found.variety >= VARIETY and found.success >= self.follow
        statistic = f"relabelling.{name}"
        p = p_height(statistic, score) if various else None
        shown = p is not None and p <= self.threshold
        yield Finding(
            level=Level.BACKDOOR if shown else Level.NOTE,
            message=(
                f"a `{name}` trigger of {_amount(found.size, arms)} makes {found.success:.0%} of held-out images "
                f"another class, {len(set(found.becomes))} different ones; triggers for one class take "
                f"{_amount(usual, arms)}"
            ),
            measure=Measure(score=score, threshold=score_at(statistic, self.threshold) if various else None),
            p_value=p,
            demonstrated=shown,
            statistic=statistic,
            trigger=found.trigger,
        )

    def _suspicions(self, spreads: dict[str, Finding], before: Array) -> list[tuple[str, int, bool]]:
        """Forms and classes worth a contest, the most suspicious first, and whether winning it would prove anything.

        A class that stands out in a form by itself, and in its best forms the class that earlier probes are sure of.
        Among six forms some class of a clean net stands out in one now and then, and wins: alone that proves nothing.
        """
        found: dict[tuple[str, int], tuple[float, bool]] = {}
        sure = int(np.argmin(before)) if float(holm(before).min()) <= self.sure else None
        for name, finding in spreads.items():
            assert finding.classes is not None
            assert finding.classes.p_values is not None
            p = finding.classes.p_values
            if finding.level > Level.NOTE and finding.target is not None:
                over_all = float(holm(p)[finding.target]) * len(spreads)
                found[name, finding.target] = float(p[finding.target]), over_all <= self.sure
            if sure is not None and p[sure] < self.threshold:
                found[name, sure] = float(p[sure]), True
        return [(*pair, found[pair][1]) for pair in sorted(found, key=lambda pair: (found[pair][0], pair))]

    def _spread(self, suspect: Classifier, name: str, arms: Arms) -> Finding:
        """How the classes' smallest triggers compare."""
        size, finished = arms.size.double().numpy(), arms.finished.numpy()
        size = np.where(arms.reached.numpy(), size, size[finished].max())
        score = -np.log(np.minimum(size, HARD * np.median(size[finished])))
        score[~finished] = np.nan
        scores, p = np.full(suspect.classes, np.nan), np.ones(suspect.classes)
        scores[list(arms.classes)] = score
        p[list(arms.classes)] = p_values(f"inversion.{name}", score)
        compared = Comparison(scores, p, f"inversion.{name}")
        target = compared.target
        arm = arms.classes.index(target)
        others = float(np.nanmedian(np.delete(np.where(finished, size, np.nan), arm)))
        message = (
            f"the smallest `{name}` trigger is the one for {suspect.name(target)}: "
            f"{_amount(float(size[arm]), arms)} where other classes need {_amount(others, arms)}"
        )
        trigger = RecoveredTrigger(pixels=arms.form.recovered(arm), form=name)
        return compared.finding(message, self.threshold, trigger=trigger)

    def _contest(self, case: ImageCase, name: str, arms: Arms, target: int, proof: bool) -> Finding:
        """The suspected class's trigger against those of the other classes at the same size, on held-out images."""
        arm = arms.classes.index(target)
        found = challenge(
            case.suspect,
            case.clean,
            case.held_out,
            name,
            arms,
            arm,
            steps=max(1, self.steps // 2),
            images=self.images,
            seed=case.seed + 1,
            progress=case.progress,
        )
        return demonstration(
            (
                f"a `{name}` trigger of {_amount(found.size, arms)} sends {found.mine:.0%} of held-out images "
                f"to {case.suspect.name(target)}, for other classes one of this size sends {found.others:.0%}"
            ),
            found.mine,
            found.others,
            follow=self.follow,
            gap=self.gap,
            proof=proof,
            target=target,
            trigger=found.trigger(name),
            pictures=found.pictures(case.held_out),
        )


def _named(given: str, automatic: tuple[str, ...]) -> tuple[str, ...]:
    names = automatic if given == "auto" else tuple(name.strip() for name in given.split(",") if name.strip())
    for name in names:
        if name not in FORMS:
            raise Problem(f"there is no form of trigger called `{name}`: there are {', '.join(FORMS)}", status=USAGE)
    return names


def _entrants(case: ImageCase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes that enter, and those among them that stay to the end as controls."""
    count = case.suspect.classes
    generator = torch.Generator().manual_seed(case.seed)
    order = torch.randperm(count, generator=generator).tolist()
    if count > MOST:
        pointed = _pointed_at(case)[: MOST // 2]
        order = [*pointed, *(c for c in order if c not in pointed)][:MOST]
    return tuple(sorted(order)), tuple(order[-FEW // 2 :])


def _pointed_at(case: ImageCase) -> list[int]:
    """Classes by how strongly earlier probes point to them."""
    return [int(c) for c in np.argsort(_combined(case), kind="stable")]


def _combined(case: ImageCase) -> Array:
    """One p-value a class from all earlier probes."""
    combined = case.combined_p_values()
    return np.ones(case.suspect.classes) if combined is None else combined


def _within(case: ImageCase, turn: int, turns: int, done: int, total: int, what: str) -> None:
    case.progress(turn * total + done, turns * total, what)


def _amount(size: float, arms: Arms) -> str:
    return f"{100 * size:.2g} % {arms.form.unit}"
