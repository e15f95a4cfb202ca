"""What a text may cost: steps, calls within calls, and values made on the way."""

from __future__ import annotations

from collections.abc import Sized
from typing import TypeVar

from bdscan.facts.deadline import check_time
from bdscan.load.code.refusal import NotFollowed

STEPS = 300_000  # expressions and statements in one run: a second or two; torchvision's nets take up to 20 000
CALLS = 40  # calls within calls: a net's modules stand some ten deep
CELLS = 3_000_000  # entries of lists and letters of strings that one run may make altogether
LONGEST = 200_000  # entries of one list or letters of one string
LARGEST = 1 << 62  # of whole numbers, as torch takes them
_EVERY = 256  # steps between two looks at the clock

_T = TypeVar("_T", bound=Sized)


class Budget:
    """Of one run; it also knows which lists and tables the run has made, for only those may it change."""

    def __init__(self, steps: int = STEPS) -> None:
        self.steps, self.calls, self.cells = steps, CALLS, CELLS
        self._made: dict[int, object] = {}  # by identity; the object is kept, so that its id stays its own

    def step(self) -> None:
        self.steps -= 1
        if self.steps % _EVERY == 0:
            check_time()
            if self.steps <= 0:
                raise NotFollowed("it takes far more steps than any net")

    def room(self, count: int) -> None:
        """So many entries or letters are about to be made."""
        self.cells -= count
        if count > LONGEST or self.cells < 0:
            raise NotFollowed("it makes far longer lists or texts than any net")

    def made(self, value: _T) -> _T:
        """A value of this run's own, which it may change."""
        self.room(len(value) + 1)
        self._made[id(value)] = value
        return value

    def own(self, value: object) -> None:
        """An object of this run's own."""
        self.room(1)
        self._made[id(value)] = value

    def may_change(self, value: object) -> None:
        if id(value) not in self._made:
            raise NotFollowed("it changes what an earlier run has made, so that no two runs are alike")
