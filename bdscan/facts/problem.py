"""What the user can mend: one class, shown as one sentence with what to do next."""

from __future__ import annotations

USAGE = 2
COULD_NOT_TELL = 3
CRASHED = "this is our own fault; please report it with the lines above"  # below a traceback


class Problem(Exception):
    """One sentence for the user, an exit status, and perhaps a hint."""

    def __init__(self, message: str, *, hint: str = "", status: int = COULD_NOT_TELL) -> None:
        super().__init__(message)
        self.message, self.hint, self.status = message, hint, status


def unusable(message: str, hint: str = "") -> Problem:
    """What was asked for cannot be done: a problem of usage."""
    return Problem(message, hint=hint, status=USAGE)
