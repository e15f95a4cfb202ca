"""Why something did not come to its end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """What kind of reason it is: what to do about it follows from that."""

    CRASH = "crash"  # our own fault
    STOPPED = "stopped"  # by the user
    BUDGET = "budget"  # the time that the user allowed is spent
    SKIPPED = "skipped"  # what it needs was not given, or nothing would have come of it
    REFUSED = "refused"  # the file, the net or the images do not allow it
    DOUBT = "doubt"  # it ran, but its answer cannot be trusted


# Another run of the same work might come to its end.
PASSING = frozenset({FailureKind.CRASH, FailureKind.STOPPED, FailureKind.BUDGET})


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure stands beside what was found, never in its place."""

    kind: FailureKind
    message: str

    def __str__(self) -> str:
        return self.message

    @classmethod
    def refused(cls, message: str) -> Failure:
        """Somebody else's doing: the sentence says what it is."""
        return cls(FailureKind.REFUSED, message)

    @classmethod
    def crash(cls, error: BaseException) -> Failure:
        """Our own fault, with what is needed to mend it."""
        return cls.ours(f"{type(error).__name__}: {error}")

    @classmethod
    def ours(cls, what: str) -> Failure:
        """The same of a process, which leaves no exception behind."""
        return cls(FailureKind.CRASH, f"our fault: {what}")


STOPPED = Failure(FailureKind.STOPPED, "stopped by the user")
