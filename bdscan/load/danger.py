"""What can be wrong with a file as such."""

from __future__ import annotations

from dataclasses import dataclass

from bdscan.facts.finding import Level


@dataclass(frozen=True)
class Danger:
    """One thing about the file itself that should worry its user."""

    level: Level
    message: str  # one sentence, no full stop, literals in backticks
    where: str = ""  # the member or the byte offset


@dataclass(frozen=True)
class FileExamination:
    """The kind of file and its dangers."""

    format: str
    dangers: tuple[Danger, ...] = ()
    pickles: int = 0  # how many were followed
    unread: tuple[str, ...] = ()  # what a loader would use and nobody looked at, a sentence each: never `clean` then
