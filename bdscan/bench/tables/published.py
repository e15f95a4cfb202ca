"""What others published, to be shown beside our own figures and marked as theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bdscan.triggers.user_trigger import TriggerEffect, der

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Source:
    """Where figures stand, and what they were measured on."""

    title: str
    where: str
    net: str
    data: str


@dataclass(frozen=True)
class PublishedFigure:
    """One method on one trigger: before and after, as shares."""

    source: Source
    room: str  # purify or train: a defence of which kind
    method: str
    attack: str
    rate: float
    accuracy: tuple[float, float]
    asr: tuple[float, float]

    @property
    def der(self) -> float:
        """By the same formula as ours."""
        before, after = (TriggerEffect(None, acc, asr, 0.0) for acc, asr in zip(self.accuracy, self.asr, strict=True))
        return der(before, after)


@cache
def published() -> tuple[PublishedFigure, ...]:
    """All figures, in the order of the file."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    sources = {name: Source(**source) for name, source in document["sources"].items()}
    pairs = ("accuracy", "asr")
    return tuple(
        PublishedFigure(**{**figure, "source": sources[figure["source"]], **{key: tuple(figure[key]) for key in pairs}})
        for figure in document["figures"]
    )


def published_on(attack: str, room: str) -> list[PublishedFigure]:
    """What defences of one kind came to on one trigger."""
    return [figure for figure in published() if (figure.attack, figure.room) == (attack, room)]


def sources(attacks: Iterable[str]) -> list[Source]:
    """Of the figures for these triggers, each once."""
    wanted = set(attacks)
    return list(dict.fromkeys(figure.source for figure in published() if figure.attack in wanted))
