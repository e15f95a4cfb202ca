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

from bdscan.facts.evidence import Array, ClassScores, Measure, RecoveredTrigger
from bdscan.facts.finding import Finding, Level
from bdscan.facts.problem import USAGE, Problem
from bdscan.method.case import ImageCase
from bdscan.method.probe import ImageProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.triggers.all_to_all import AllToAllTrigger, invert_all_to_all
from bdscan.triggers.forms import FORMS
from bdscan.triggers.invert import MAX_ARMS, Arms, challenge, invert
from bdscan.verdict.calibration import p_height, p_values, score_at
from bdscan.verdict.comparison import Comparison, demonstration
from bdscan.verdict.joint import Joint

MAX_SIZE_RATIO = 1.5  # times the median size: classes harder than that do not tell how easy a class may be
MAX_CLASSES = 48  # classes that may enter; beyond it, those that earlier probes point to and as many drawn at random
FAST_FORMS = ("patch", "smooth", "warp")  # local, spread out and geometric: each sees what the others do not
RELABEL_FORMS = ("patch", "smooth")
MIN_VARIETY = 0.6  # different classes that the classes must become, as a share: natural changes end in one or two


@dataclass(frozen=True)
class Inversion(ImageProbe):
    """Universal triggers of six forms."""

    forms: str = "auto"  # patch, moving, additive, smooth, lines, warp; auto: all, or the first three of `FAST_FORMS`
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
        *(f"relabelling.{form}" for form in RELABEL_FORMS),
    )
    quick: ClassVar[bool] = True

    def for_self_check(self, form: str | None) -> Inversion:
        """The planted ones are universal; in the first look the form is known and need not be proved."""
        return replace(self, relabel="") if form is None else replace(self, forms=form, contests=0, relabel="")

    def __call__(self, case: ImageCase) -> Iterator[Finding]:
        searches = []
        for search in self._searches(case):
            searches.append(search)
            yield search.finding(case.suspect, self.threshold)
        for search, target, proof in self._suspicions(searches, case.joint())[: self.contests]:
            yield self._contest(case, search, target, proof)
        yield from self._relabellings(case, searches)

    def _searches(self, case: ImageCase) -> Iterator[_Search]:
        """Neural Cleanse, form by form: for every class the smallest trigger that sends the other classes' images."""
        forms = _named(self.forms, FAST_FORMS if case.effort == "fast" else tuple(FORMS))
        classes, controls = _entrants(case)
        for turn, form in enumerate(forms):
            arms = invert(
                case.suspect,
                case.clean,
                form,
                classes,
                steps=self.steps,
                images=self.images,
                seed=case.seed,
                controls=controls,
                progress=partial(_within, case, turn, len(forms)),
            )
            yield _Search.compared(form, arms, case.suspect.classes)

    def _suspicions(self, searches: list[_Search], before: Joint | None) -> list[tuple[_Search, int, bool]]:
        """Searches and classes worth a contest, the most suspicious first, and whether winning it would prove anything.

        A class that stands out in a form by itself, and in its best forms the class that earlier probes are sure of.
        Among six forms some class of a clean net stands out in one now and then, and wins: alone that proves nothing.
        """
        found: dict[tuple[str, int], tuple[float, _Search, bool]] = {}
        sure = before.target if before is not None and before.over_all <= self.sure else None
        for search in searches:
            p, target, over_all = search.classes.p_values, search.classes.target, search.classes.over_all
            if over_all < self.threshold:
                found[search.form, target] = float(p[target]), search, over_all * len(searches) <= self.sure
            if sure is not None and p[sure] < self.threshold:
                found[search.form, sure] = float(p[sure]), search, True
        ranked = sorted(found, key=lambda pair: (found[pair][0], pair))
        return [(found[pair][1], pair[1], found[pair][2]) for pair in ranked]

    def _contest(self, case: ImageCase, search: _Search, target: int, proof: bool) -> Finding:
        """The suspected class's trigger against those of the other classes at the same size, on held-out images."""
        arms = search.arms
        contest = challenge(
            case.suspect,
            case.clean,
            case.held_out,
            search.form,
            arms,
            arms.classes.index(target),
            steps=max(1, self.steps // 2),
            images=self.images,
            seed=case.seed + 1,
            progress=case.progress,
        )
        message = (
            f"a `{search.form}` trigger of {_amount(contest.size, arms)} sends {contest.mine:.0%} of held-out images "
            f"to {case.suspect.name(target)}, for other classes one of this size sends {contest.others:.0%}"
        )
        return demonstration(
            message,
            contest.mine,
            contest.others,
            follow=self.follow,
            gap=self.gap,
            proof=proof,
            target=target,
            trigger=contest.trigger(search.form),
            pictures=contest.pictures(case.held_out),
        )

    def _relabellings(self, case: ImageCase, searches: list[_Search]) -> Iterator[Finding]:
        """All-to-all: one trigger of a form, and a class of its own for every class."""
        arms_of = {search.form: search.arms for search in searches}
        automatic = () if case.effort == "fast" else tuple(form for form in RELABEL_FORMS if form in arms_of)
        for form in _named(self.relabel, automatic):
            found = invert_all_to_all(
                case.suspect,
                case.clean,
                case.held_out,
                form,
                steps=self.steps,
                images=self.images,
                seed=case.seed,
                progress=case.progress,
            )
            if found is None:
                yield Finding(level=Level.NOTE, message=f"no `{form}` trigger relabels every class")
            else:
                yield self._relabelling(found, form, arms_of[form])

    def _relabelling(self, found: AllToAllTrigger, form: str, arms: Arms) -> Finding:
        """How small it is beside triggers for one class, and whether clean nets have one like it."""
        usual = float(np.median(arms.size[arms.finished].numpy()))
        score, statistic = float(np.log(usual / found.size)), f"relabelling.{form}"
        various = found.variety >= MIN_VARIETY and found.success >= self.follow
        p = p_height(statistic, score) if various else None
        demonstrated = p is not None and p <= self.threshold
        return Finding(
            level=Level.BACKDOOR if demonstrated else Level.NOTE,
            message=(
                f"a `{form}` trigger of {_amount(found.size, arms)} makes {found.success:.0%} of held-out images "
                f"another class, {len(set(found.becomes))} different ones; triggers for one class take "
                f"{_amount(usual, arms)}"
            ),
            measure=Measure(score=score, threshold=score_at(statistic, self.threshold) if various else None),
            p_value=p,
            demonstrated=demonstrated,
            statistic=statistic,
            trigger=found.trigger,
        )


@dataclass(frozen=True, eq=False)
class _Search:
    """One form's triggers for all classes, and how these compare by the smallest that works."""

    form: str
    arms: Arms
    size: Array  # an arm's; where it never succeeded, that of the largest
    classes: Comparison

    @classmethod
    def compared(cls, form: str, arms: Arms, count: int) -> _Search:
        finished = arms.finished.numpy()
        size = arms.size.double().numpy()
        size = np.where(arms.reached.numpy(), size, size[finished].max())
        score = -np.log(np.minimum(size, MAX_SIZE_RATIO * np.median(size[finished])))
        score[~finished] = np.nan
        if not arms.reached.any():  # all stopped at what the search allows: nothing is known of their order
            score[:] = np.nan
        scores, p = np.full(count, np.nan), np.full(count, np.nan)
        scores[list(arms.classes)], p[list(arms.classes)] = score, p_values(f"inversion.{form}", score)
        return cls(form, arms, size, Comparison(scores, p, f"inversion.{form}"))

    def finding(self, suspect: Classifier, threshold: float) -> Finding:
        """The class whose trigger is the smallest by comparison."""
        if not self.arms.reached.any():
            scores = ClassScores(scores=self.classes.scores, p_values=self.classes.p_values)
            message = f"no `{self.form}` trigger was found that leads to any class"
            return Finding(level=Level.NOTE, message=message, statistic=self.classes.statistic, classes=scores)
        target = self.classes.target
        arm = self.arms.classes.index(target)
        finished = np.where(self.arms.finished.numpy(), self.size, np.nan)
        others = float(np.nanmedian(np.delete(finished, arm)))
        message = (
            f"the smallest `{self.form}` trigger is the one for {suspect.name(target)}: "
            f"{_amount(float(self.size[arm]), self.arms)} where other classes need {_amount(others, self.arms)}"
        )
        works = self.arms.finished & self.arms.reached
        triggers = {
            c: RecoveredTrigger(pixels=self.arms.form.recovered(a), form=self.form)
            for a, c in enumerate(self.arms.classes)
            if bool(works[a]) or a == arm
        }
        return self.classes.finding(message, threshold, triggers=triggers, trigger=triggers[target])


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
    if count > MAX_CLASSES:
        joint = case.joint()
        pointed = [] if joint is None else joint.ranked[: MAX_CLASSES // 2]
        order = [*pointed, *(c for c in order if c not in pointed)][:MAX_CLASSES]
    return tuple(sorted(order)), tuple(order[-MAX_ARMS // 2 :])


def _within(case: ImageCase, turn: int, turns: int, done: int, total: int, what: str) -> None:
    case.progress(turn * total + done, turns * total, what)


def _amount(size: float, arms: Arms) -> str:
    return f"{100 * size:.2g} % {arms.form.unit}"
