"""What the user can mend: one class, shown as one sentence with what to do next."""

from __future__ import annotations

USAGE = 2
COULD_NOT_TELL = 3
CRASHED = "this is our own fault; please report it with the lines above"  # below a traceback
_MAX_SHOWN = 160  # characters of a name or of a library's error


class Problem(Exception):
    """One sentence for the user, an exit status, and perhaps a hint."""

    def __init__(self, message: str, *, hint: str = "", status: int = COULD_NOT_TELL) -> None:
        super().__init__(message)
        self.message, self.hint, self.status = message, hint, status


def unusable(message: str, hint: str = "") -> Problem:
    """What was asked for cannot be done: a problem of usage."""
    return Problem(message, hint=hint, status=USAGE)


def plain(words: object) -> str:
    """A name or an error that may come from a file, made safe to show: short, on one line, printable."""
    text = (str(words) or type(words).__name__).replace("`", "'")
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN // 2]}...{text[-_MAX_SHOWN // 2 :]}"
    return text if text.isprintable() else ascii(text)[1:-1]
