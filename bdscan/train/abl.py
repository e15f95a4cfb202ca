"""Anti-backdoor learning: what is learned too soon is isolated, left out, and unlearned.

What it does
    Watches a new net learn all the images for a few epochs, each image held at a loss of `gamma` by gradient ascent
    once it falls below. If one class falls into two parts as no other class does, by how soon its images are learned,
    the sooner part is isolated. Then a new net learns the rest as `plain` does. Where it takes isolated images for
    their label all the same, it unlearns them in short rounds: away from that label on them, towards it on images of
    the class that are above suspicion, batch norm fixed; no round remains that costs accuracy on images kept back.
Why it works
    A trigger is the same on every image that bears it, so it is learned sooner than what else a class shows, and it
    leads to one class: that class is learned in two pieces. Where no class stands out nothing is left out, and the
    net is that of `plain`, weight for weight.
When it fails
    Where the trigger is no easier than the images: warps (WaNet), triggers that differ from image to image, few
    poisoned images (1 % and less), and weak blends. All-to-all attacks lead to every class, so none stands out. With
    fewer than four classes there is nothing to compare with. Where nothing stands out, the data are not thereby clean.
    Look at the isolated images: an odd subset of a class, such as cartoons among photographs, can stand apart too.
How it differs from the paper
    The sign of the ascent is each image's own, as in the formula, and not the batch's, as in the authors' code. Held
    so, losses leap up and down about `gamma`, and those of the last epoch, which the authors sort by, say nothing:
    here their mean logarithm over all epochs counts. The paper isolates the lowest hundredth of all images, be they
    poisoned or easy, leaves nine tenths of the poisoned ones in the training and relies on the unlearning. Here a
    class has to stand out, its whole part is left out and the net starts anew, so that there is little to unlearn.
Reference
    Li, Lyu, Koren, Lyu, Li, Ma: Anti-Backdoor Learning, NeurIPS 2021 (arXiv 2110.11571).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from bdscan.model import Normalised
from bdscan.problem import USAGE, Problem
from bdscan.train import Course, Isolation, Trained, Trainer
from bdscan.train._lessons import kept_back, learned, without
from bdscan.train._unlearn import unlearned
from bdscan.train._watch import Watched, depth, evidence, standing, watched

ASCENTS = ("local", "flooding", "none")


@dataclass(frozen=True)
class Abl(Trainer):
    """Settings and the training."""

    epochs: int = 30  # of the learning, as for `plain`
    batch: int = 128  # the authors'; small data have smaller ones, and a lower rate
    rate: float = 0.1  # the authors', in the first stage all the time
    decay: float = 5e-4  # of the learning, as for `plain`; in the first stage the authors' 1e-4
    watch: int = 10  # epochs of the first stage, as in the authors' code; the paper has 20
    ascent: str = "local"  # local, flooding (the authors' default) or none
    gamma: float = 0.5  # the loss at which images are held, the paper's
    share: float = 0.01  # of all images, the soonest of the isolated: what is unlearned, as in the paper
    threshold: float = 0.01  # p over all classes, below which a class stands out
    rounds: int = 5  # of unlearning, at most; the authors' ascent lasts as many epochs
    pace: float = 0.002  # rate of the unlearning; the authors' 5e-4 has no descent beside it and no bound
    loss: float = 0.02  # accuracy that the unlearning may cost on images kept back

    looks: ClassVar[bool] = True

    def __call__(self, course: Course) -> tuple[Normalised, Trained]:
        self._check()
        seen = watched(
            course,
            epochs=self.watch,
            batch=self.batch,
            rate=self.rate,
            decay=1e-4,
            ascent=self.ascent,
            gamma=self.gamma,
        )
        first, isolation = self._isolated(course, seen)
        kept = kept_back(course.data, ~isolation.isolated, course.seed)
        taught = without(course.data, kept, isolation.isolated.nonzero()[:, 0])
        net, losses = learned(course, taught, epochs=self.epochs, batch=self.batch, rate=self.rate, decay=self.decay)
        trained = Trained(kept=kept, curves={"all but the isolated": losses}, isolation=isolation)
        return net, self._unlearned(course, net, trained, first, taught) if len(first) else trained

    def _check(self) -> None:
        if self.ascent not in ASCENTS:
            raise Problem(f"`abl.ascent` is one of {', '.join(ASCENTS)}, not `{self.ascent}`", status=USAGE)
        if not 0 < self.share < 0.5 or self.watch < 1:
            raise Problem("`abl.share` lies between 0 and 0.5, and `abl.watch` is at least 1", status=USAGE)

    def _isolated(self, course: Course, seen: Watched) -> tuple[Tensor, Isolation]:
        """The sooner part of the class that stands out, and the places of the soonest of it."""
        data, scores = course.data, depth(seen.scored)
        found = standing(scores, data.labels, course.classes)
        said = evidence(found, self.threshold, _named(course, found.target))
        isolated = found.part if said.target is not None else torch.zeros_like(found.part)
        first = scores.masked_fill(~isolated, torch.inf).argsort(stable=True)
        first = first[: min(int(isolated.sum()), max(1, round(self.share * len(data))))]
        groups = {"isolated": isolated, "others": ~isolated} if said.target is not None else {"all": ~isolated}
        curves = {name: seen.curve(group) for name, group in groups.items()}
        return first, Isolation(score=scores, isolated=isolated, evidence=said, curves=curves)

    def _unlearned(self, course: Course, net: Normalised, trained: Trained, first: Tensor, taught: Tensor) -> Trained:
        """What is left of the backdoor is taken out; only the best learned half of the class is not used for that."""
        isolation, data = trained.isolation, course.data
        assert isolation is not None
        own = data.labels == isolation.evidence.target
        doubtful = own & (isolation.score < isolation.score[own & ~isolation.isolated].median())
        progress = unlearned(
            course,
            net,
            data.take(first),
            data.take(taught[~doubtful[taught]]),
            data.take(trained.kept[~doubtful[trained.kept]]),
            rounds=self.rounds,
            batch=self.batch,
            rate=self.pace,
            loss=self.loss,
        )
        return replace(trained, unlearning=progress.told())


def _named(course: Course, label: int) -> str:
    names = course.data.names
    return f"`{names[label]}`" if label < len(names) else f"class {label}"
