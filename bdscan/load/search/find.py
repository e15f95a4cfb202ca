"""The net that a file's tensors and labelled clean images settle together, where nothing tells its structure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet
from bdscan.load.arch.match import FilledNet, fit
from bdscan.load.assembly.normalize import Norm
from bdscan.load.nets.candidate import Candidate, outline_of
from bdscan.load.search.accept import Judgement, agreement, judged
from bdscan.load.search.infer import Search, Tried
from bdscan.load.search.net import InferredNet
from bdscan.load.search.parts import Kind, Part, parts_of
from bdscan.load.search.plan import Plan, described
from bdscan.load.search.structure import Norms, Shape

MAX_IMAGES = 1000  # a standard error of at most 1.6 points
_MIN_IMAGES = 100  # labelled: with fewer, the best of thousands is right by luck
_CHANGES = 2  # in what a rival differs, in a sentence
_SHOWN = 3  # rivals in a sentence
_SURE_DRIFT = 0.25  # deviations: half-way to what is refused


@dataclass(frozen=True, eq=False)
class Found:
    """The net, the images it takes, and what is to be said about it."""

    filled: FilledNet
    shape: Shape
    norm: Norm  # that the images were given, likeliest
    notes: tuple[str, ...]
    doubts: tuple[str, ...]


def classes_of(tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes such a net has; None where no search can find it."""
    parts = parts_of(outline_of(tensors))
    layers = [part for part in parts or () if part.kind in (Kind.CONV, Kind.LINEAR)]
    dense = [part for part in layers if part.kind is Kind.LINEAR]
    return (dense or layers)[-1].given if layers else None


def find(
    tensors: dict[str, Tensor],
    clean: Callable[[Shape], ImageSet],
    norms: Norms,
    own: Shape | None,
    classes: int,
    progress: Progress,
) -> Found | str:
    """The net whose answers suit the images; or why there is none."""
    parts = parts_of(outline_of(tensors))
    assert parts is not None
    search = Search(parts, tensors, clean, norms, own, progress)
    if not search.space.possible:
        return "its layers make no chain for images of any usual size"
    images = len(search.images(search.space.possible.schedule.shape)[1])
    if images < _MIN_IMAGES:
        return f"there are {images} clean images, and {_MIN_IMAGES} are needed to infer its structure"
    best = search.run()
    judgement = judged(best, search.is_own_size, classes, search.count)
    winner = judgement.winner
    text = described(winner.structure.plan, search.runner.parts)
    if judgement.refusal:
        tried = f"of {search.count} structures tried on {images} clean images none is convincing"
        return f"{tried}: {judgement.refusal} ({text})"
    build = partial(InferredNet, winner.structure.plan, search.runner.parts)
    filled = fit(Candidate(name=f"inferred: {text}", build=build, fixed_size=True), tensors)
    if not isinstance(filled, FilledNet):
        return "its layers go by names that no torch net can have"
    return Found(
        filled,
        winner.structure.schedule.shape,
        winner.structure.norm,
        _notes(judgement, search),
        _doubts(judgement, search),
    )


def _notes(judgement: Judgement, search: Search) -> tuple[str, ...]:
    winner = judgement.winner
    message = f"structure inferred from the images: the likeliest of {search.count}, {_score(winner)} right"
    if winner.trial.drifts:
        message += f", its norms {winner.trial.drift:.2f} deviations off what they were trained on"
    if judgement.beaten:
        message += f"; next {_listed(judgement.beaten, winner, search.runner.parts)}"
    for other in judgement.sizes:
        height, width = other.structure.schedule.shape[1:]
        message += f"; nearly the same answers at {height}x{width} pixels, {other.accuracy:.1%} right"
    return (message,)


def _doubts(judgement: Judgement, search: Search) -> tuple[str, ...]:
    winner, rivals = judgement.winner, judgement.rivals
    drift = winner.trial.drift
    astray = f"the norms of the inferred structure are {drift:.2f} deviations off what they were trained on"
    doubts = [astray] if drift > _SURE_DRIFT else []
    if untried := search.untried(winner):
        doubts.append(f"{len(untried)} structures like the inferred one would take too long to try")
    if not rivals:
        return tuple(doubts)
    same = min(agreement(winner, rival) for rival in rivals)
    message = f"the structure is not settled: {_score(winner)} right, {_listed(rivals, winner, search.runner.parts)}"
    return (*doubts, f"{message}, with {same:.0%} of the answers the same (`--arch FILE.py:factory` states it)")


def _score(tried: Tried) -> str:
    return f"{tried.accuracy:.1%} of {len(tried.trial.answers)} images"


def _listed(others: Sequence[Tried], winner: Tried, parts: Mapping[str, Part]) -> str:
    shown = [f"{_difference(winner.structure.plan, one.structure.plan, parts)} {one.accuracy:.1%}" for one in others]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _difference(plan: Plan, other: Plan, parts: Mapping[str, Part]) -> str:
    """What stands in the other where this has something else."""
    matcher = difflib.SequenceMatcher(None, plan, other, autojunk=False)
    changes = []
    for kind, start, end, begin, stop in matcher.get_opcodes():
        if kind != "equal":
            ours, theirs = (described(part, parts) or "nothing" for part in (plan[start:end], other[begin:stop]))
            changes.append(f"`{theirs}` for `{ours}`")
    return " and ".join(changes[:_CHANGES]) + (" ..." if len(changes) > _CHANGES else "")
