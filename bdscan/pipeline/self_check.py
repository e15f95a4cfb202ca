"""Would we have seen a backdoor in this very net? Known ones are planted in a copy, and looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from bdscan.facts.effort import EFFORTS
from bdscan.facts.evidence import Measure, PlantedBackdoor, p_measure
from bdscan.facts.failure import Failure, FailureKind
from bdscan.facts.finding import Finding, Level, Run, Verdict
from bdscan.images.image_set import ImageSet, at_once
from bdscan.method import registry
from bdscan.method.case import ImageCase, NetCase
from bdscan.method.plant import Plant, success
from bdscan.method.probe import AnyProbe, Stage
from bdscan.net.classifier import Classifier
from bdscan.net.fit import retrained
from bdscan.net.merged_norms import with_norms_merged
from bdscan.pipeline.probing import Probes, ordered
from bdscan.pipeline.runner import Runner
from bdscan.triggers.forms import stamped
from bdscan.triggers.invert import GOAL
from bdscan.verdict.judge import judge, p_of
from bdscan.verdict.rules import DETECTED_P

NAME = "sensitivity"  # of its run in the report
MIN_IMAGES = 250  # with fewer the copy learns the images instead of the trigger
MIN_PLANTED = 0.8  # success on held-out images from which on a backdoor counts as planted
POISON = 0.5  # of the working images are added once more with the trigger on: few images must carry it
EPOCHS, RATE, BATCH = 25, 0.05, 50  # enough to plant both in a net of twelve classes with sixteen images each
ROUNDS = 2  # of so many epochs, where the first leaves a trigger weaker than those that are searched


@dataclass(frozen=True)
class Strength:
    """One backdoor to plant, and the form of trigger that it is looked for by in the first look."""

    plant: str
    settings: dict[str, str]
    form: str
    described: str


# As published: BadNets' 3x3, Blended's 0.2. At 0.15 the three quick probes see a blend in some nets and not in others
# that are as clean (p = 0.006 to 0.2), so that it would say more about chance than about the net.
STRENGTHS = (
    Strength("badnets", {}, "patch", "a 3x3 patch"),
    Strength("blend", {"alpha": "0.2"}, "smooth", "a blend at 20 %"),
)

# The turn of the probes at a copy: of the quick ones, looking for one form, or of all that look for universal triggers
# where none is named; no longer than it takes to see the class.
Look = Callable[[ImageCase, str | None, int], "Seen"]


@dataclass(frozen=True)
class Seen:
    """What a verdict goes by of a planted class: its p over all probes and classes, and whether a trigger was shown."""

    p: float
    demonstrated: bool

    @classmethod
    def of(cls, target: int, runs: tuple[Run, ...], to_come: Iterable[str] = ()) -> Seen:
        """Probes of families that are still to come counted as silent."""
        shown = any(f.demonstrated and f.target == target for run in runs for f in run.findings)
        return cls(p_of(target, runs, to_come), shown)

    def __bool__(self) -> bool:
        return self.demonstrated or self.p <= DETECTED_P

    def __str__(self) -> str:
        return f"p = {self.p:.2g}" + (", and a trigger for it was shown" if self.demonstrated else "")


def checked(case: NetCase, runner: Runner) -> tuple[Run, ...]:
    """The runs, and where nothing was found one more: would anything have been?"""
    options = runner.options
    worth_it = options.effort != "fast" and not options.probes and judge(case.runs).verdict <= Verdict.INCONCLUSIVE
    if not worth_it or runner.stopped is not None or not isinstance(case, ImageCase):
        return case.runs
    if len(case.clean) + len(case.held_out) < MIN_IMAGES:
        return case.runs
    watched = replace(case, progress=runner.progress(NAME))
    run = runner.run(NAME, "", {}, lambda: check(watched, looked))
    failure = run.failure
    if failure is None and (why := unseen(run.findings)) is not None:
        failure = Failure(FailureKind.DOUBT, why)
    return (*case.runs, replace(run, failure=failure))


def looked(planted: ImageCase, form: str | None, target: int) -> Seen:
    """The probes' turn at the copy, until one settles it; what breaks one of them ends the check."""
    planted = replace(planted, suspect=with_norms_merged(planted.suspect))
    probes = looking(quick=form is not None)
    for turn, (name, probe) in enumerate(probes, 1):
        findings = tuple(probe.for_self_check(form)(planted))
        planted = replace(planted, runs=(*planted.runs, Run(probe=name, family=probe.family, findings=findings)))
        seen = Seen.of(target, planted.runs, [later.family for _, later in probes[turn:]])
        if seen:
            break
    return seen


def looking(*, quick: bool) -> Probes:
    """The quick probes, or all that a verdict rests on and that look for what works on all classes."""

    def chosen(probe: AnyProbe) -> bool:
        rests_on = probe.stage in (Stage.ACCUSES, Stage.DEMONSTRATES) and probe.universal
        return rests_on and (probe.quick if quick else EFFORTS.index(probe.effort) <= EFFORTS.index("standard"))

    return ordered({name: registry.configure("probes", name, {}) for name in registry.names("probes")}, chosen)


def check(case: ImageCase, look: Look) -> Iterator[Finding]:
    """Plant each strength in a copy of its own class, look for it, and say which was seen."""
    suspect, held_out = case.suspect, case.held_out
    targets = torch.randperm(suspect.classes, generator=torch.Generator().manual_seed(case.seed)).tolist()
    plants = [(registry.configure("plant", s.plant, s.settings), targets[i]) for i, s in enumerate(STRENGTHS)]
    for strength, (plant, target) in zip(STRENGTHS, plants, strict=True):
        copy, rate = suspect, 0.0  # one each: two outliers would hide one another
        for _ in range(ROUNDS):
            copy = _planted(copy, case.clean, plant, target, case)
            rate = success(copy, plant, held_out.images, held_out.labels, target, suspect.device)
            if rate >= GOAL:
                break
        if rate < MIN_PLANTED:
            message = f"{strength.described} could not be planted in a copy of the net (success {rate:.0%})"
            measure = Measure(score=rate, threshold=MIN_PLANTED)
            yield Finding(level=Level.NOTE, message=message, measure=measure, target=target)
            continue
        planted = replace(case, suspect=copy, runs=(), subspaces={})
        seen = look(planted, strength.form, target) or look(planted, None, target)  # as hard as for the verdict itself
        yield Finding(
            level=Level.NOTE,
            message=(
                f"{strength.described}, planted in a copy of the net (success {rate:.0%}), "
                f"{'was seen' if seen else 'was NOT seen'} at this effort ({seen})"
            ),
            measure=p_measure(seen.p, DETECTED_P),
            target=target,
            planted=PlantedBackdoor(success=rate, detected=bool(seen)),
        )


def unseen(findings: tuple[Finding, ...]) -> str | None:
    """Why the verdict may not be clean; None when every planted backdoor was seen."""
    planted = [finding for finding in findings if finding.planted is not None]
    missed = [finding.message for finding in planted if finding.planted and not finding.planted.detected]
    if missed:
        return "; ".join(missed)
    return None if planted else "no backdoor could be planted in a copy of the net: how much would be seen is unknown"


def _planted(suspect: Classifier, working: ImageSet, plant: Plant, target: int, case: ImageCase) -> Classifier:
    """A copy, fine-tuned on the clean images and on stamped ones."""
    generator = torch.Generator().manual_seed(case.seed)
    drawn = torch.randperm(len(working), generator=generator)[: round(POISON * len(working))]
    images = torch.cat([working.images, stamped(working.images[drawn], plant)])
    labels = torch.cat([working.labels, plant.label(working.labels[drawn], target, suspect.classes)])
    return retrained(
        suspect,
        images,
        labels,
        epochs=EPOCHS,
        rate=RATE,
        batch=at_once(suspect.shape, BATCH),
        schedule="cosine",
        seed=case.seed,
        progress=lambda done, total: case.progress(done, total, "planting backdoors in a copy"),
    )
