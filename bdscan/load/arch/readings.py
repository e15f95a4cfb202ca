"""What a file's names could be without what somebody put before them: a net inside a net, its children numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from bdscan.facts.problem import plain
from bdscan.load.nets.candidate import BATCH_COUNTER, Candidate, Outline

_LEAST_SHARE = 0.5  # of the names that begin alike, for what they begin with to be the net they belong to
_MAX_PARTS = 6  # of a name that are taken off
# `nn.Sequential(*list(resnet.children())[:-1])`: torchvision's ResNets by the places of their children.
_NUMBERED = {"0.": "conv1.", "1.": "bn1.", "4.": "layer1.", "5.": "layer2.", "6.": "layer3.", "7.": "layer4."}
_NUMBERED |= {"9.": "fc."}


@dataclass(frozen=True, eq=False)
class Reading:
    """The file under the names that a net may have for it."""

    outline: Outline
    names: dict[str, str]  # from the file's names to these
    told: str = ""  # what was done to them
    cut_off: bool = False  # only children of the net were taken, so that what it does between them is not shown

    def applied(self, candidate: Candidate) -> Candidate:
        """The candidate, as a net of the file's own names."""
        if not self.told:
            return candidate
        before, renamed = candidate.convert, self._renamed

        def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return before(renamed(tensors)) if before else renamed(tensors)

        variants = (candidate.variant, "what its children do not show as in the whole net" if self.cut_off else "")
        name, variant = f"{candidate.name} {self.told}", ", ".join(filter(None, variants))
        return replace(candidate, name=name, variant=variant, convert=convert)

    def _renamed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counters too, which outlines leave out: they go where the rest of their layer does."""
        paths = {old.rpartition(".")[0]: new.rpartition(".")[0] for old, new in self.names.items()}
        result = {}
        for name, tensor in tensors.items():
            path, _, kind = name.rpartition(".")
            counter = kind == BATCH_COUNTER and path in paths
            result[f"{paths[path]}.{kind}" if counter else self.names.get(name, name)] = tensor
        return result


def readings(outline: Outline) -> Iterator[Reading]:
    """The names as they are, then without each beginning that most of them share."""
    yield Reading(outline, {name: name for name in outline})
    for prefix in ("", *_beginnings(outline)):
        inside = {name: name.removeprefix(prefix) for name in outline if name.startswith(prefix)}
        told = f"under `{plain(prefix.rstrip('.'))}`" if prefix else "by its children's numbers"
        if prefix:
            yield _reading(outline, inside, told)
        if way := _cut_off(set(inside.values())):
            yield _reading(outline, {name: way(rest) for name, rest in inside.items()}, told, cut_off=True)


def _reading(outline: Outline, inside: Mapping[str, str], told: str, *, cut_off: bool = False) -> Reading:
    """The names inside the net as they are called there; what stands beside it is told apart, if need be."""
    taken = set(inside.values())
    names = {name: inside.get(name, f"beside.{name}" if name in taken else name) for name in outline}
    return Reading({names[name]: shape for name, shape in outline.items()}, names, told, cut_off)


def _cut_off(rests: set[str]) -> Callable[[str], str] | None:
    """How the names of a net's children become its own, where only the children were taken."""
    if {"0.weight", "4.0.conv1.weight"} <= rests:
        return lambda name: _NUMBERED.get(name[:2], name[:2]) + name[2:]
    if "denseblock1.denselayer1.conv1.weight" in rests or {"0.weight", "0.0.weight"} & rests:
        return lambda name: f"features.{name}"  # what torchvision calls all but the head
    return None


def _beginnings(outline: Outline) -> list[str]:
    """`model.`, `model.backbone.`, ... as far as most names share them, the shortest first."""
    counts: Counter[str] = Counter()
    for name in outline:
        parts = name.split(".")[: _MAX_PARTS + 1]
        counts.update(".".join(parts[:i]) + "." for i in range(1, len(parts)))
    return [prefix for prefix, count in counts.items() if count >= _LEAST_SHARE * len(outline)]
