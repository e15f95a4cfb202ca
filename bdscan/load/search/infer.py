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

_FIRST, _SECOND, _ALL = 100, 250, 1 << 30  # images that a structure is asked: to sort out, to rank, to be judged by
_FEW = 40  # to sort out nets that take long for each
_LONG = 3e7  # multiplications an image
_CHUNKS = (200, 600, 1800, 6000)  # structures that are tried before the best of them are changed
_SHARES = (0.3, 0.6, 0.8, 1.0)  # of the work, after which each of these ends
_SURVIVORS = 24  # that are ranked by more images
_CONTENDERS = 12  # that are judged by all of them
_OUT_OF_REACH = 20.0  # nats behind the best: no contender
_PARENTS = 2  # whose changes are tried, beside the best for images of their own size
_GENERATIONS = 10
_ENOUGH = 0.8  # a structure so often right needs no others beside those near to it
_MAX_WORK = 1.5e11  # multiplications in all: some 30 seconds of one core
_AT_HOME = 0.25  # drift at which the same holds, if there are two norms to tell it
# How much of a nat each weighs. Surprise is the finer measure, but nets that were trained for long are a little less
# surprised where a soft activation stands in for their own: it counts for less than it says.
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

    def badness(self) -> float:
        """How unlikely it is, in nats: by its images, as if they were so many, by its norms, and by itself."""
        return self._unlikely(_SECOND) + _PER_DRIFT * self.trial.drift

    def final_badness(self) -> float:
        """The same among the best, all images asked. Where the net was trained on distorted images, the norms of every
        structure are off by about as much, and only by how many times more is telling."""
        return self._unlikely(len(self.trial.answers)) + _PER_RATIO * math.log(self.trial.drift + _LITTLE_DRIFT)

    def _unlikely(self, images: int) -> float:
        wrong = _PER_ERROR * (1 - self.accuracy) + _PER_NAT * float(self.trial.surprises.mean())
        return images * wrong + self.structure.cost + _ANOTHER_ORDER * (self.order is not None)

    @property
    def accuracy(self) -> float:
        return float((self.trial.answers == self.labels).float().mean())

    @property
    def all_labels(self) -> Tensor:
        """In the net's order of classes."""
        return self.images_labels if self.order is None else self.order[self.images_labels]

    @property
    def labels(self) -> Tensor:
        return self.all_labels[: len(self.trial.answers)]

    def reorder(self) -> bool:
        """Takes the labels in the net's order from here on, where its answers tell that it is another."""
        if self.order is not None or gain_of_renaming(self.trial.answers, self.labels) is None:
            return False
        names = renaming(self.trial.answers, self.labels)
        self.order = _as_index(names, 1 + max(int(self.images_labels.max()), *names.values()))
        return True


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
            some = population[begin : begin + self._affordable(population[begin:], chunk, share)]
            begin += len(some)
            if not some:
                break
            self._ask(some, _FIRST)
            self._climb(share)
            if self._settled:
                break
        near = {
            tried.structure: None
            for best in (self.best(_CONTENDERS), self._best_of_own_size(_CONTENDERS))
            for tried in best
            if tried.badness() < best[0].badness() + _OUT_OF_REACH
        }
        asked = [self.ask(structure) for structure in near]
        return sorted(asked, key=Tried.final_badness)

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

    def _affordable(self, structures: Sequence[Structure], chunk: int, share: float) -> int:
        """How many of them leave half of the work for changes of the best, judged by the first of them."""
        if not structures:
            return 0
        begun = self.runner.work
        self.ask(structures[0], _FIRST)
        each = max(1.0, self.runner.work - begun)
        return max(1, min(chunk, int((share * _MAX_WORK - begun) / 2 / each)))

    def _climb(self, share: float) -> None:
        done: set[tuple[object, ...]] = set()
        for _ in range(_GENERATIONS):
            self._ask([tried.structure for tried in self.best(_SURVIVORS)], _SECOND)
            best = (*self.best(_PARENTS), *self._best_of_own_size(1))
            parents = [tried.structure for tried in best if tried.structure.key not in done]
            if not parents or self.runner.work > share * _MAX_WORK:
                break
            done |= {parent.key for parent in parents}
            self._ask([change for parent in parents for change in self.space.near(parent)], _FIRST)

    def _ask(self, structures: Iterable[Structure], count: int) -> None:
        """Each asked so many images; neighbours with much in common one after another."""
        fresh = {structure.key: structure for structure in structures}
        for structure in sorted(fresh.values(), key=lambda one: (one.norm.name, one.schedule.shape, one.plan)):
            if self.runner.work > _MAX_WORK:
                return
            self.progress(int(100 * self.runner.work / _MAX_WORK), 100, f"structures, {self.count} tried")
            self.ask(structure, count)

    def ask(self, structure: Structure, count: int = _ALL) -> Tried:
        """One of them asked so many images."""
        pixels, labels = self.images(structure.schedule.shape)
        if count == _FIRST and structure.schedule.work > _LONG:
            count = _FEW
        tried = self.tried.get(structure.key)
        if tried is None:
            self.count += 1
            trial = Trial(structure.plan, structure.norm, structure.schedule.shape)
            tried = self.tried.setdefault(structure.key, Tried(structure, trial, labels))
        self.runner.ask(tried.trial, pixels[:count], tried.all_labels)
        if tried.reorder():
            tried.trial = Trial(structure.plan, structure.norm, structure.schedule.shape)
            self.runner.ask(tried.trial, pixels[:count], tried.all_labels)
        return tried


def _as_index(names: Mapping[int, int], classes: int) -> Tensor:
    """The net's number of each class; those it never gives get what is left."""
    left = iter(sorted(set(range(classes)) - set(names.values())))
    return torch.tensor([names[label] if label in names else next(left) for label in range(classes)])
