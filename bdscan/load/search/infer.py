"""The search: structures tried the likeliest first, and the best changed in one thing at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet
from bdscan.load.assembly.choose import gain_of_renaming, renaming, spread
from bdscan.load.search.chain import chains
from bdscan.load.search.parts import Part
from bdscan.load.search.structure import Norms, Shape, Space, Structure
from bdscan.load.search.trial import Runner, Trial

_GLANCE, _FIRST, _SECOND, _ALL = 20, 100, 250, 1 << 30  # images asked: to leave out, to sort, to rank, to be judged by
_HOPELESS = 8.0  # nats behind the best at a glance
_WORKING = 0.5  # of the images of a glance, that the best is right about
_CHUNKS = (60, 240, 900, 1800, 6000)  # structures that are tried before the best of them are changed
_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the work, after which each of these ends
_LOOKING = 0.7  # of a share goes to structures off the list, the rest to changes of the best
_SURVIVORS = 8  # that are ranked by more images
_CONTENDERS = 12  # that are judged by all of them
_PLAINER = 3  # beside them, of those that are plainer than the best
_ODDER = 1.0  # nats
_NEAR_MISS = 0.1  # of accuracy
_SMOOTHED = 0.03  # of accuracy, that pads, averages and soft activations add to nets that were trained without them
_SETTLED_BY_DRIFT = 1.5  # times the drift of the other
_DRIFT_NOISE = 0.02  # of a hundred images
_OUT_OF_REACH = 20.0  # nats behind the best: no contender
_PARENTS = 2  # whose changes are tried, beside the best for images of their own size
_GENERATIONS = 10
_ENOUGH = 0.8  # a structure so often right needs no others beside those near to it
_MAX_WORK = 2.5e11  # multiplications in all: some 30 seconds of one core
_AT_HOME = 0.25  # drift at which the same holds, if there are two norms to tell it
# How much of a nat each weighs. Surprise is the finer measure, but nets that were trained for long are a little less
# surprised where a soft activation stands in for their own: it counts for less than it says, and no more the more
# images there are.
_PER_ERROR, _PER_NAT = 0.5, 0.35
_PER_DRIFT = 200.0  # nats that a deviation of drift weighs
_LITTLE_DRIFT = 0.05  # of norms that are at home
_PER_RATIO = _PER_DRIFT * _LITTLE_DRIFT  # so that a little drift weighs as much either way
_ANOTHER_ORDER = 8.0  # nats: the classes seldom stand in another order


@dataclass(eq=False)
class Tried:
    """A structure and what came of it."""

    structure: Structure
    trial: Trial
    images_labels: Tensor  # in the images' order of classes
    order: Tensor | None = None  # the net's number of each class of the images, where it is another
    _known: tuple[Trial, int, tuple[float, float]] | None = None  # of which trial, after so many answers

    def badness(self) -> float:
        """How unlikely it is, in nats: by its images, as if they were so many, by its norms, and by itself."""
        return self._unlikely(_SECOND) + _PER_DRIFT * self.trial.drift

    def final_badness(self) -> float:
        """The same among the best, each error counted. Where the net was trained on distorted images, the norms of
        every structure are off by about as much, and only by how many times more is telling."""
        errors = _PER_ERROR * (1 - self.accuracy) * (len(self.trial.answers) - _SECOND)
        return self._unlikely(_SECOND) + errors + _PER_RATIO * math.log(self.trial.drift + _LITTLE_DRIFT)

    def _unlikely(self, images: int) -> float:
        return self.misfit(images) + self.structure.cost + _ANOTHER_ORDER * (self.order is not None)

    def misfit(self, images: int) -> float:
        """What so many images alone say."""
        accuracy, surprise = self._means()
        return images * (_PER_ERROR * (1 - accuracy) + _PER_NAT * surprise)

    def plainer_than(self, other: Tried) -> bool:
        """Whether its strides and pools are more usual and it works nearly as well: what fits by chance is odd."""
        odder = other.structure.way_cost - self.structure.way_cost
        return odder >= _ODDER and self.accuracy >= other.accuracy - _NEAR_MISS

    def form_cost(self) -> float:
        return self.structure.form_cost

    def smoothed_by(self, other: Tried) -> bool:
        """Whether it is more usual, and the other hardly better, as by pads, averages and soft activations alone."""
        odder = other.form_cost() - self.form_cost() >= _ODDER
        return odder and self.accuracy >= other.accuracy - _SMOOTHED and not self.further_off(other)

    def further_off(self, other: Tried) -> bool:
        """Whether its norms lie so much further off that they alone tell the two apart."""
        return self.trial.drift > _SETTLED_BY_DRIFT * other.trial.drift + _DRIFT_NOISE

    @property
    def accuracy(self) -> float:
        return self._means()[0]

    def _means(self) -> tuple[float, float]:
        """Accuracy and surprise: structures are compared again and again."""
        asked = len(self.trial.answers)
        if self._known is None or self._known[0] is not self.trial or self._known[1] != asked:
            accuracy = float((self.trial.answers == self.labels).float().mean())
            self._known = self.trial, asked, (accuracy, float(self.trial.surprises.mean()))
        return self._known[2]

    @property
    def all_labels(self) -> Tensor:
        """In the net's order of classes."""
        return self.images_labels if self.order is None else self.order[self.images_labels]

    @property
    def labels(self) -> Tensor:
        return self.all_labels[: len(self.trial.answers)]

    def reorder(self, known: Tensor | None) -> bool:
        """Takes the labels in the net's order from here on, where its answers tell that it is another: the one that is
        known from another structure, or its own."""
        if self.order is not None:
            return False
        if known is not None and self._right(known) > self._right(None):
            self.order = known
        elif gain_of_renaming(self.trial.answers, self.labels) is not None:
            names = renaming(self.trial.answers, self.labels)
            self.order = _as_index(names, 1 + max(int(self.images_labels.max()), *names.values()))
        return self.order is not None

    def _right(self, order: Tensor | None) -> int:
        labels = self.labels if order is None else order[self.labels]
        return int((self.trial.answers == labels).sum())


class Search:
    """Everything that was tried so far."""

    def __init__(
        self,
        parts: Sequence[Part],
        tensors: Mapping[str, Tensor],
        clean: Callable[[Shape], ImageSet],
        norms: Norms,
        own: Shape | None,
        progress: Progress,
    ) -> None:
        self.space = Space(chains(parts), own, norms)
        self.runner = Runner({part.name: part for part in parts}, tensors)
        self.own, self.clean, self.progress = own, clean, progress
        self.tried: dict[tuple[object, ...], Tried] = {}
        self.sets: dict[Shape, tuple[Tensor, Tensor]] = {}
        self.order: Tensor | None = None  # of the file's classes, where a structure has told that it is another
        self.count = 0  # of structures tried

    def images(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """At this size, in an order in which every class comes up again and again."""
        if shape not in self.sets:
            clean = self.clean(shape)
            order = spread(clean.labels)
            self.sets[shape] = clean.images[order], clean.labels[order]
        return self.sets[shape]

    def run(self) -> list[Tried]:
        """The best, the likeliest first, asked all images."""
        population = self.space.likeliest()
        begin = 0
        for chunk, share in zip(_CHUNKS, _SHARES, strict=True):
            some = population[begin : begin + chunk]
            begin += len(some)
            self._sort_out(some, _LOOKING * share)
            self._climb(share)
            if self._settled:
                break
        self._complete()
        best = self.best(_CONTENDERS)
        own = self._best_of_own_size(_CONTENDERS)
        every = self.best(len(self.tried))
        plainer = [tried for tried in every if tried.plainer_than(best[0])][:_PLAINER]
        usual = sorted((tried for tried in every if tried.smoothed_by(best[0])), key=Tried.form_cost)[:_PLAINER]
        near = dict.fromkeys(tried.structure for tried in (*_in_reach(best), *_in_reach(own), *plainer, *usual))
        asked = [self.ask(structure) for structure in near]
        return plain_first(sorted(asked, key=Tried.final_badness))

    def _complete(self) -> None:
        """What could be the net as well as the best is tried too, as far as the work allows."""
        while (rest := self.untried(self.best(1)[0])) and self.runner.work < _MAX_WORK:
            self._sort_out(rest, 1.0)
            self._climb(1.0)

    def untried(self, tried: Tried) -> list[Structure]:
        """What differs from it in one thing, and strides and pools no less usual than its own that were tried in no
        style: those that were not tried."""
        ways = {one.structure.way for one in self.tried.values()}
        near = [one for one in self.space.near(tried.structure) if one.key not in self.tried]
        return near + [one for one in self.space.no_less_usual(tried.structure) if one.way not in ways]

    @property
    def _settled(self) -> bool:
        best = self.best(1)[0]
        at_home = len(best.trial.drifts) > 1 and best.trial.drift < _AT_HOME
        return at_home or best.accuracy >= _ENOUGH

    def best(self, most: int) -> list[Tried]:
        return sorted(self.tried.values(), key=Tried.badness)[:most]

    def is_own_size(self, tried: Tried) -> bool:
        """Whether the images have this size by themselves."""
        return self.own is not None and tried.structure.schedule.shape[1:] == self.own[1:]

    def _best_of_own_size(self, most: int) -> list[Tried]:
        """Those among them, if any: enlarged images do nearly as well, so that other sizes need not be the net's."""
        return sorted(filter(self.is_own_size, self.tried.values()), key=Tried.badness)[:most]

    def _sort_out(self, structures: Iterable[Structure], share: float) -> None:
        """A glance at each, and a longer look at those that are not far behind the best at that.

        Where none is often right, the classes may stand in another order, which takes more images to see.
        """
        seen = self._ask(structures, _GLANCE, share)
        best = min(seen, key=lambda tried: tried.misfit(_GLANCE), default=None)
        if best is not None:
            most = best.misfit(_GLANCE) + _HOPELESS if best.accuracy >= _WORKING else math.inf
            self._ask([tried.structure for tried in seen if tried.misfit(_GLANCE) <= most], _FIRST, share)

    def _climb(self, share: float) -> None:
        done: set[tuple[object, ...]] = set()
        for _ in range(_GENERATIONS):
            self._ask([tried.structure for tried in _in_reach(self.best(_SURVIVORS))], _SECOND, 1.0)
            best = (*self.best(_PARENTS), *self._best_of_own_size(1))
            parents = [tried.structure for tried in best if tried.structure.key not in done]
            if not parents or self.runner.work > share * _MAX_WORK:
                break
            done |= {parent.key for parent in parents}
            self._sort_out((change for parent in parents for change in self.space.near(parent)), share)

    def _ask(self, structures: Iterable[Structure], count: int, share: float) -> list[Tried]:
        """Each asked so many images until the share of the work is done; neighbours with much in common one after
        another."""
        fresh = {structure.key: structure for structure in structures}
        asked = []
        for structure in sorted(fresh.values(), key=lambda one: (one.norm.name, one.schedule.shape, one.plan)):
            if self.runner.work > share * _MAX_WORK:
                break
            self.progress(int(100 * self.runner.work / _MAX_WORK), 100, f"structures, {self.count} tried")
            asked.append(self.ask(structure, count))
        return asked

    def ask(self, structure: Structure, count: int = _ALL) -> Tried:
        """One of them asked so many images."""
        pixels, labels = self.images(structure.schedule.shape)
        tried = self.tried.get(structure.key)
        if tried is None:
            self.count += 1
            trial = Trial(structure.plan, structure.norm, structure.schedule.shape)
            tried = self.tried.setdefault(structure.key, Tried(structure, trial, labels))
        self.runner.ask(tried.trial, pixels[:count], tried.all_labels)
        if tried.reorder(self.order):
            self.order = tried.order
            tried.trial = Trial(structure.plan, structure.norm, structure.schedule.shape)
            self.runner.ask(tried.trial, pixels[:count], tried.all_labels)
        return tried


def plain_first(ranked: Sequence[Tried]) -> list[Tried]:
    """Before the best, the most usual of those that it may only be a smoothed one of."""
    plain = min((tried for tried in ranked if tried.smoothed_by(ranked[0])), key=Tried.form_cost, default=ranked[0])
    return [plain, *(tried for tried in ranked if tried is not plain)]


def _in_reach(ranked: Sequence[Tried]) -> list[Tried]:
    """Those not far behind the first."""
    return [tried for tried in ranked if tried.badness() < ranked[0].badness() + _OUT_OF_REACH]


def _as_index(names: Mapping[int, int], classes: int) -> Tensor:
    """The net's number of each class; those it never gives get what is left."""
    left = iter(sorted(set(range(classes)) - set(names.values())))
    return torch.tensor([names[label] if label in names else next(left) for label in range(classes)])
