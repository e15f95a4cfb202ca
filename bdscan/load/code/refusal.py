"""What stands in a text and is not followed, and what the text itself would raise."""

from __future__ import annotations

from bdscan.facts.problem import Problem


class NotFollowed(Problem):
    """A construct that is not followed, with the place where it stands as soon as that is known."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="bdscan reads sources as text and follows what builds and runs a net")
        self.placed = False

    def at(self, file: str, line: int) -> None:
        """The innermost place is told, and no other."""
        if not self.placed:
            self.placed = True
            self.message = f"`{file}`, line {line}: {self.message}"
            self.args = (self.message,)


class Raised(ValueError):
    """What the text raises itself, as it would if it ran."""
