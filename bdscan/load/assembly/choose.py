"""Which of the nets and normalisations that could be is the one: the one that is right about the clean images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bdscan.facts.deadline import check_time
from bdscan.facts.problem import plain
from bdscan.images.image_set import ImageSet, at_once
from bdscan.load.arch.match import FilledNet
from bdscan.load.assembly.normalize import Norm
from bdscan.net.classifier import Normalised
from bdscan.net.fit import autocast

_FIRST_ROUND = 40  # images to tell good from hopeless: a standard error of at most 8 points
_MAX_DEFICIT = 0.2  # of accuracy in a round, two such errors and more: what is further behind is out
_SECOND_ROUND = 250  # images to tell the rest apart
_MAX_WORK = 1.5e12  # additions and multiplications: ten seconds of a core, of which each round has a third
_LEAST_ROUND = 8  # images, where a round of them is dear
_LIKE = 0.1  # of the range of pixels: normalisations nearer than this are told apart by nets that are cheap to ask only
_MAX_IMAGES = 1000  # images the accuracy is measured on: a standard error of at most 1.6 points
_SAME_NET = 0.95  # two that agree on so many answers are the same net for our purposes: the commoner is taken
DIFFERENT_NETS = 0.8  # two that are as often right, but agree on fewer than this, leave the net in doubt
_MIN_GAIN = 0.1  # what a relabelling must gain before the class order is doubted
_MIN_RELABELLED = 0.5  # how accurate a relabelled net must be for that
_MIN_PER_CLASS = 4  # images a class: with fewer any net can be relabelled
_MAX_NAMES = 50  # of classes that a sentence can list
_MAX_BATCH = 50  # images at a time, fewer where they are large


@dataclass(eq=False)
class Option:
    """A net behind a normalisation, and its answers so far."""

    filled: FilledNet
    norm: Norm
    answers: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def ask(self, pixels: Tensor, device: torch.device, *, half: bool = False) -> None:
        """Answers for all of these images, those that are known not asked again."""
        batch = at_once(pixels.shape, _MAX_BATCH)
        net = Normalised(self.filled.net, self.norm.mean, self.norm.std).eval().to(device)
        with torch.no_grad(), autocast(device, half):
            for start in range(len(self.answers), len(pixels), batch):
                check_time()
                part = pixels[start : start + batch].to(device).float() / 255
                self.answers = torch.cat([self.answers, net(part).argmax(1).cpu()])

    def accuracy(self, labels: Tensor) -> float:
        return float((self.answers == labels[: len(self.answers)]).float().mean())

    @property
    def named(self) -> str:
        return f"`{self.norm.name}`" + (
            f" with {self.filled.candidate.variant}" if self.filled.candidate.variant else ""
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """The option taken, and what is to be said about it."""

    option: Option
    accuracy: float | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def guess(options: Sequence[Option], *, stated: bool) -> Choice:
    """Without clean images: the commonest, and a doubt for everything it leaves open."""
    first = options[0]
    doubts = []
    if not stated:
        message = f"the normalisation cannot be told without clean images: `{first.norm.name}` was assumed"
        doubts.append(f"{message} (`--normalize` states it)")
    if first.filled.candidate.variant:
        doubts.append(f"its tensors do not show all of the net: {first.filled.candidate.variant} was assumed")
    return Choice(first, doubts=tuple(doubts))


def choose(options: Sequence[Option], clean: ImageSet, device: torch.device) -> Choice:
    """The option with the best accuracy, asked in rounds so that the hopeless cost little."""
    order = spread(clean.labels)[:_MAX_IMAGES]
    pixels, labels = clean.images[order], clean.labels[order]
    affordable = _affordable(options[0].filled.net, clean.images.shape[1:])
    dear = len(options) * _FIRST_ROUND > affordable
    if dear:
        options = _unlike(options)
    remaining = list(options)
    for most in (_FIRST_ROUND, _SECOND_ROUND) if len(remaining) > 1 else ():
        count = min(most, max(_LEAST_ROUND, affordable // len(remaining)))
        for option in remaining:
            option.ask(pixels[:count], device, half=dear)
        scores = {id(option): _score(option, labels) for option in remaining}
        best = max(scores.values())
        remaining = sorted(remaining, key=lambda option: -scores[id(option)])  # stable: the commoner first among equals
        deficit = _MAX_DEFICIT * max(1.0, (_FIRST_ROUND / count) ** 0.5)
        remaining = [option for option in remaining if scores[id(option)] >= best - deficit]
    alike = [
        option
        for option in remaining
        if agreement(remaining[0], option) >= _SAME_NET
        and not beats(remaining[0], option, _in_order_of(remaining[0], labels))
    ]
    winning = min(alike, key=options.index) if alike else remaining[0]  # a single option was not asked yet
    others = [option for option in options if option is not winning]
    comparison = _comparison(winning, others, remaining, _in_order_of(winning, labels))
    winning.ask(pixels[: max(affordable, _FIRST_ROUND)], device, half=dear)
    labels = labels[: len(winning.answers)]
    doubts = [*comparison.doubts, *_order_doubts(winning, clean, labels)]
    notes = list(comparison.notes)
    if len(labels) < len(clean):
        notes.append(f"clean accuracy was measured on {len(labels)} of {len(clean)} images")
    return Choice(winning, winning.accuracy(labels), tuple(notes), tuple(doubts))


def _affordable(net: nn.Module, shape: Sequence[int]) -> int:
    """How many images a round may ask about, over all options."""
    device = next((parameter.device for parameter in net.parameters()), None)
    with torch.no_grad(), FlopCounterMode(display=False) as work:
        net.eval()(torch.full((1, *shape), 0.5, device=device))
    return int(_MAX_WORK / 3 / max(1, work.get_total_flops()))


def _unlike(options: Sequence[Option]) -> list[Option]:
    """Of each net one of those normalisations that lie close together, the likeliest."""
    kept: list[Option] = []
    for option in options:
        if not any(one.filled is option.filled and _close(one.norm, option.norm) for one in kept):
            kept.append(option)
    return kept


def _close(one: Norm, other: Norm) -> bool:
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return all(abs(a - b) <= _LIKE for a, b in pairs)


def renaming(answers: Tensor, labels: Tensor) -> dict[int, int]:
    """For every class what the net mostly says for it, no two classes the same."""
    pairs, counts = torch.stack([labels, answers]).unique(dim=1, return_counts=True)
    names = dict[int, int]()
    for i in counts.argsort(descending=True, stable=True).tolist():
        label, answer = pairs[:, i].tolist()
        if label not in names and answer not in names.values():
            names[label] = answer
    return names


def relabelled(answers: Tensor, labels: Tensor) -> float:
    """Accuracy if every class were called what the net mostly says for it."""
    names = renaming(answers, labels)
    pairs = zip(labels.tolist(), answers.tolist(), strict=True)
    return sum(1 for label, answer in pairs if names.get(label) == answer) / len(labels)


def gain_of_renaming(answers: Tensor, labels: Tensor) -> float | None:
    """Accuracy under another order of the classes, if that is telling: with an image or two a class any net can be
    relabelled."""
    if len(labels) < _MIN_PER_CLASS * len(labels.unique()):
        return None
    other, own = relabelled(answers, labels), float((answers == labels).float().mean())
    return other if other >= max(_MIN_RELABELLED, own + _MIN_GAIN) else None


def _reordered(option: Option, labels: Tensor) -> float | None:
    return gain_of_renaming(option.answers, labels[: len(option.answers)])


def _score(option: Option, labels: Tensor) -> float:
    """Accuracy, whatever the order of the classes: a wrong order must not pass for a wrong normalisation."""
    return _reordered(option, labels) or option.accuracy(labels)


def _in_order_of(option: Option, labels: Tensor) -> Tensor:
    """The labels as the net numbers them, where it has the classes in another order."""
    if not len(option.answers) or _reordered(option, labels) is None:
        return labels
    names = renaming(option.answers, labels[: len(option.answers)])
    return torch.tensor([names.get(label, -1) for label in labels.tolist()])


def _comparison(winning: Option, others: Sequence[Option], remaining: Sequence[Option], labels: Tensor) -> Choice:
    """By how much the option won, and against which it did not."""
    if not others:
        return Choice(winning)
    choice_of = "normalisation" if any(other.norm != winning.norm for other in others) else "variant of the net"
    ties = [other for other in others if other in remaining and not beats(winning, other, labels)]
    disagreeing = [tie for tie in ties if agreement(winning, tie) < DIFFERENT_NETS]
    winner = f"{_scores([winning], labels)} right"
    if disagreeing:
        message = f"the {choice_of} is not settled: {winner}, {_scores(disagreeing, labels)}"
        return Choice(winning, doubts=(f"{message} (`--normalize` and `--arch` state it)",))
    losers = sorted((other for other in others if other not in ties), key=lambda other: -other.accuracy(labels))
    note = f"{choice_of} chosen by accuracy: {winner}"
    note += f", {_scores(losers[:1], labels)}" if losers else ""
    note += f"; hardly different: {_scores(ties, labels)}" if ties else ""
    return Choice(winning, notes=(note,))


def _scores(options: Sequence[Option], labels: Tensor) -> str:
    return ", ".join(f"{one.named} {one.accuracy(labels):.1%} of {len(one.answers)} images" for one in options)


def beats(winning: Option, rival: Option, labels: Tensor) -> bool:
    """Whether the taken one is right more often, by the images that both were asked."""
    count = min(len(winning.answers), len(rival.answers))
    return more_often(*(one.answers[:count] == labels[:count] for one in (winning, rival)))


def more_often(right: Tensor, other: Tensor) -> bool:
    """Whether one is right more often than the other, beyond chance (two sigma): by the images on which just one is."""
    won, lost = int((right & ~other).sum()), int((other & ~right).sum())
    return won > lost and (won - lost) ** 2 > 4 * (won + lost)


def agreement(one: Option, other: Option) -> float:
    """Share of the images on which both answer the same."""
    count = min(len(one.answers), len(other.answers))
    return float((one.answers[:count] == other.answers[:count]).float().mean())


def _order_doubts(option: Option, clean: ImageSet, labels: Tensor) -> list[str]:
    """That the classes stand in another order; and in which, as `--classes` takes it."""
    best = _reordered(option, labels)
    if best is None:
        return []
    message = f"accuracy is {option.accuracy(labels):.0%}, but {best:.0%} if the classes stood in another order"
    by_answer = {answer: label for label, answer in renaming(option.answers, labels).items()}
    known = [by_answer[i] for i in range(len(clean.names)) if i in by_answer]
    names = [plain(clean.names[label]) for label in known if label < len(clean.names)]
    if not len(names) == len(clean.names) == len(by_answer) <= _MAX_NAMES:
        return [f"{message}: give the net's own order with `--classes FILE`"]
    return [f"{message}: give the net's own with `--classes FILE`, its text `{json.dumps(names, ensure_ascii=False)}`"]


def spread(labels: Tensor) -> Tensor:
    """An order in which every class comes up again and again, whatever the order of the set."""
    rank = torch.empty_like(labels)
    generator = torch.Generator().manual_seed(0)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        rank[members] = torch.randperm(len(members), generator=generator)
    return rank.argsort(stable=True)
