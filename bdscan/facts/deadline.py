"""A moment after which work ends, also where it is too deep to be told of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_moment: ContextVar[float] = ContextVar("moment", default=math.inf)  # of time.monotonic


class OutOfTime(Exception):
    """The time is spent: whatever is at work ends where it is."""


@contextmanager
def within(seconds: float | None, begun: float) -> Iterator[None]:
    """While the block lasts, `check_time` ends what takes longer than so many seconds since `begun`; None: no limit."""
    moment = _moment.set(_moment.get() if seconds is None else min(_moment.get(), begun + seconds))
    try:
        yield
    finally:
        _moment.reset(moment)


def check_time() -> None:
    """Called by every loop that a file can make long."""
    if time.monotonic() > _moment.get():
        raise OutOfTime
